"""LIVE release 2 and LIVE In the Wild (CLIVE), whose labels are MATLAB's."""

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np

from iqa_armor.bounded import worker
from iqa_armor.data import RELEASES
from iqa_armor.data.base import Dataset
from iqa_armor.data.labelled import LabelledImage, Problems, find_labels, labelled_dataset, plain_name
from iqa_armor.data.table import finite_score
from iqa_armor.errors import DataError, contents, reading

AGAIN = "unpack the release again"
LIVE, CLIVE = RELEASES["live"], RELEASES["clive"]


def variable(kind: str, path: str, name: str, content: bytes) -> tuple[list[Any], bytes]:
    """Return a variable of a .mat file, "numbers" or "texts", flattened in column order; called in its own process."""
    from scipy.io import loadmat

    found = loadmat(io.BytesIO(content), variable_names=[name])
    if name not in found:
        raise DataError(f"{path} holds no variable {name}; {AGAIN}")
    values = np.asarray(found[name])
    if kind == "numbers":
        if values.dtype.kind not in "biuf":
            raise DataError(f"{path} holds no numbers in {name}; {AGAIN}")
        return [float(value) for value in values.ravel()], b""
    cells = [np.asarray(cell) for cell in values.ravel(order="F")]
    if not all(cell.size == 1 and cell.dtype.kind == "U" for cell in cells):
        raise DataError(f"{path} holds no list of names in {name}; {AGAIN}")
    return [str(cell.item()).strip() for cell in cells], b""


def read_variable(kind: Literal["numbers", "texts"], path: Path, name: str) -> list[Any]:
    """Return the numbers or texts that a variable of a .mat file holds; a DataError if the file holds no such thing."""
    with reading(path, DataError, says="cannot be read", advice=AGAIN):
        # What scipy runs for these files in C crashes on some.
        found, _ = worker().call("iqa_armor.data.live:variable", kind, str(path), name, payload=contents(path))
        return list(found)


# The vectors run over these folders in this order, img1.bmp to the last of each.
FOLDERS = (("jp2k", 227), ("jpeg", 233), ("wn", 174), ("gblur", 174), ("fastfading", 174))


def open_live(spec: str, location: str) -> Dataset:
    """Return the 779 distorted images of a folder of LIVE release 2, divided by a hash of the reference's name.

    DMOS falls with quality, so the score is 100 − DMOS; published DMOS leave [0, 100] a little, scores do so too. The
    originals, which the vectors list as images of their own, are left out.

    Source: Sheikh, Sabir and Bovik, "A Statistical Evaluation of Recent Full Reference Image Quality Assessment
    Algorithms", IEEE TIP 2006. It has no official split; this one is by reference (ours).
    """
    file = find_labels(location, ["dmos.mat"], how_to_get=LIVE["get"])[0]
    problems, folder, pristine = Problems(spec), file.parent, file.parent / "refimgs"
    names = [f"{kind}/img{number}.bmp" for kind, count in FOLDERS for number in range(1, count + 1)]
    dmos, originals = read_variable("numbers", file, "dmos"), read_variable("numbers", file, "orgs")
    references = read_variable("texts", folder / "refnames_all.mat", "refnames_all")
    for variable, length in (("dmos", len(dmos)), ("orgs", len(originals)), ("refnames_all", len(references))):
        if length != len(names):
            raise DataError(f"{variable} in {folder} has {length} entries, not {len(names)}. {LIVE['get']}")
    images = [
        LabelledImage(
            name, folder / name, finite_score(100 - value, name, problems), scene=scene, reference=pristine / scene
        )
        for name, value, is_original, scene in zip(names, dmos, originals, references, strict=True)
        if not is_original
    ]
    files = (file, folder / "refnames_all.mat")
    return labelled_dataset(images, problems, folder=folder, labels=LIVE["labels"], advice=LIVE["get"], files=files)


PRACTICE = 7  # the first of the list, in Images/trainingImages: shown to every subject to learn the task


def open_clive(spec: str, location: str) -> Dataset:
    """Return LIVE In the Wild, divided by a hash of the names, from a folder with `Data` and `Images` or the one above.

    The seven practice images at the head of the list are left out: they are not among the 1,162 of the publication, and
    every subject saw them first.

    Source: Ghadiyaram and Bovik, "Massive Online Crowdsourced Study of Subjective and Objective Picture Quality", IEEE
    TIP 2016. It has no official split; this one is by name (ours).
    """
    file = find_labels(location, ["Data/AllImages_release.mat"], how_to_get=CLIVE["get"])[0]
    names = read_variable("texts", file, "AllImages_release")
    mos = read_variable("numbers", file.with_name("AllMOS_release.mat"), "AllMOS_release")
    if len(names) != len(mos) or len(names) <= PRACTICE:
        raise DataError(f"{file.parent} names {len(names)} images but scores {len(mos)}. {CLIVE['get']}")
    problems, folder = Problems(spec), file.parents[1] / "Images"
    images = [
        LabelledImage(name, folder / plain_name(name, problems), finite_score(score, name, problems))
        for name, score in zip(names[PRACTICE:], mos[PRACTICE:], strict=True)
    ]
    files = (file, file.with_name("AllMOS_release.mat"))
    return labelled_dataset(images, problems, folder=folder, labels=CLIVE["labels"], advice=CLIVE["get"], files=files)
