"""LIVE release 2: 29 photographs with five kinds of distortion and difference opinion scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from iqa_armor.data.base import Dataset
from iqa_armor.data.problems import Problems
from iqa_armor.data.published import existing, read_numbers, read_texts, release_folder
from iqa_armor.data.tables import Entry, check_constant, check_duplicates, check_finite, grouped_splits, image_sets
from iqa_armor.errors import DataError

LABEL_FILE = "dmos.mat"
REFERENCE_FILE = "refnames_all.mat"
# The vectors run over these folders in this order, img1.bmp to the last of each.
FOLDERS = (("jp2k", 227), ("jpeg", 233), ("wn", 174), ("gblur", 174), ("fastfading", 174))
HOW_TO_GET = (
    "LIVE release 2 is at https://live.ece.utexas.edu/research/quality/subjective.htm: unpack "
    "databaserelease2.zip, which holds dmos.mat, refnames_all.mat, refimgs/ and one folder per distortion"
)


def open_live(spec: str, location: str) -> Dataset:
    """Return the 779 distorted images of LIVE release 2, divided 70/10/20 by a hash of the reference's name.

    DMOS falls with quality, so the score is 100 − DMOS; published DMOS leave [0, 100] a little, scores do so
    too. The originals, which the vectors list as images of their own, are left out.

    Args:
        spec: The user's text, for messages and records.
        location: Folder with `dmos.mat`, `refnames_all.mat` and the folders of images, or one with it in it.

    Raises:
        DataError: If label files or images are missing, or the vectors are not those of release 2.

    Source:
        Sheikh, Sabir and Bovik, "A Statistical Evaluation of Recent Full Reference Image Quality Assessment
        Algorithms", IEEE TIP 2006. It has no official split; this one is by reference (ours).
    """
    folder = release_folder(location, LABEL_FILE, HOW_TO_GET)
    names = [f"{kind}/img{number}.bmp" for kind, count in FOLDERS for number in range(1, count + 1)]
    dmos = read_numbers(folder / LABEL_FILE, "dmos").tolist()
    originals = read_numbers(folder / LABEL_FILE, "orgs").tolist()
    references = read_texts(folder / REFERENCE_FILE, "refnames_all")
    for variable, values in (("dmos", dmos), ("orgs", originals), ("refnames_all", references)):
        if len(values) != len(names):
            raise DataError(f"{variable} in {folder} has {len(values)} entries, not {len(names)}. {HOW_TO_GET}")
    kept = [i for i, is_original in enumerate(originals) if not is_original]
    problems = Problems(spec)
    entries = _entries(
        folder, [names[i] for i in kept], [references[i] for i in kept], scores=[100 - dmos[i] for i in kept]
    )
    problems.extend(f"missing images in {folder}", (entry.name for entry in entries if not entry.path.is_file()))
    check_finite(entries, problems)
    check_duplicates(entries, problems)
    check_constant(entries, problems)
    problems.raise_if_any(HOW_TO_GET)
    return Dataset(spec, image_sets(entries), labels="100 − DMOS, since DMOS falls with quality")


def _entries(folder: Path, names: Sequence[str], references: Sequence[str], *, scores: Sequence[float]) -> list[Entry]:
    return [
        Entry(name, folder / name, split, score, existing(folder / "refimgs" / reference))
        for name, reference, split, score in zip(names, references, grouped_splits(references), scores, strict=True)
    ]
