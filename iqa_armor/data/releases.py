"""Published datasets: tables of labels beside folders of images, as `releases.toml` says, and those of MATLAB."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from iqa_armor.bounded import worker
from iqa_armor.data import RELEASES
from iqa_armor.data.base import Dataset, ImageSet, Split
from iqa_armor.data.images import FileImages
from iqa_armor.data.labelled import LabelledImage, Places, Problems, find_labels, labelled_dataset, plain_name
from iqa_armor.data.table import SPLIT_NAMES, Row, finite_score, read_labels
from iqa_armor.errors import DataError, contents, expanded, is_file, reading

_NO_SPLIT = "no official split is in its label file: figures on its test images are not those of publications"
_CSIQ_NAMES = MappingProxyType({"noise": "awgn", "jpeg 2000": "jpeg2000"})
AGAIN = "unpack the release again"
LIVE, CLIVE = RELEASES["live"], RELEASES["clive"]
# The vectors run over these folders in this order, img1.bmp to the last of each.
FOLDERS = (("jp2k", 227), ("jpeg", 233), ("wn", 174), ("gblur", 174), ("fastfading", 174))
PRACTICE = 7  # the first of the list, in Images/trainingImages: shown to every subject to learn the task


@dataclass(frozen=True)
class Release:
    """How one published dataset is laid out."""

    get: str  # where it is and what to unpack
    files: Sequence[str]  # patterns of its label files, the preferred first; all that fit one pattern are read
    folders: Sequence[str]  # where its images lie; the first folder that holds any is taken
    image: Sequence[str]  # columns that name an image, the preferred first; without names they are counted from 1
    mos: Sequence[str]  # columns of its score
    columns: Sequence[str] = ()  # further columns that it needs
    # Where scores are distances from undistorted images, which have 0: what those get, minus the distance.
    best: float | None = None
    split: str = ""  # column of the official split, which some of the label files lack
    split_words: Mapping[str, Split] = field(default_factory=lambda: SPLIT_NAMES)  # what that may hold
    # What an image shows: what stands in a column, or the beginning of its name, else the whole name. Images of one
    # scene are in one split, by a hash of it where there is none.
    scene_column: str = ""
    scene_before: str = ""
    originals: str = ""  # folder of the pristine originals, which are called like their scenes
    sheet: str = ""  # sheet of an Excel file
    labels: str = Dataset.labels  # what its scores are

    def open(self, spec: str, location: str) -> Dataset:
        """Return the dataset of its folder or the one above; a DataError lists what it lacks."""
        files, problems = find_labels(location, self.files, how_to_get=self.get), Problems(spec)
        rows = [row for file in files for row in self._rows(file)]
        root = files[0].parents[next(name.count("/") for name in self.files if files[0].match(name))]
        folder = self._folder((root, expanded(location)), [name for _, name, _ in rows])
        images, pristine = self._places(folder), self._places(root / self.originals)
        has_split = self.split != "" and all(self.split in row.values for row, _, _ in rows)
        found = []
        for row, name, mos in rows:
            path, score = images.find(name) if name else None, row.score(mos, problems)
            scene = name.partition(self.scene_before)[0].upper() if self.scene_before else name
            scene = row[self.scene_column] if self.scene_column else scene
            if path is None:
                problems.add("image names that are empty or paths", repr(name))
            if not scene:
                problems.add("rows without a reference", f"line {row.line}")
            split = row.split(self.split, problems, self.split_words) if has_split else None
            score = score if self.best is None else self.best - score
            reference = pristine.find(scene) if self.originals and scene else None
            found.append(LabelledImage(name, path or folder, score, split, scene, reference))
        made = labelled_dataset(found, problems, folder=folder, labels=self.labels, advice=self.get, files=files)
        return replace(made, remarks=(f"{spec}: {_NO_SPLIT}",)) if self.split and not has_split else made

    def _rows(self, file: Path) -> list[tuple[Row, str, str]]:
        """Return the rows of a label file with the name of the image and the column of the score."""
        columns = tuple(filter(None, (*self.columns, self.scene_column)))
        table = read_labels(file, columns, sheet=self.sheet)
        kinds = (self.image, self.mos)
        image, mos = (next((name for name in names if name in table.header), names[0]) for names in kinds)
        table.require(tuple(dict.fromkeys((image, *columns, mos))))
        return [(row, self._name(row, image), mos) for row in table.rows]

    def _name(self, row: Row, image: str) -> str:
        if "dst_type" not in self.columns:
            return row[image]
        kind = _CSIQ_NAMES.get(row["dst_type"].lower(), row["dst_type"].lower())
        return f"{kind}/{row[image]}.{kind}.{row['dst_lev'].partition('.')[0]}.png"

    def _folder(self, roots: Sequence[Path], names: Sequence[str]) -> Path:
        places = [root / folder for folder in self.folders for root in dict.fromkeys(roots)]
        for place in (place for place in places if place.is_dir()):
            images = self._places(place)
            if any((path := images.find(name)) is not None and path.is_file() for name in names):
                return place
        raise DataError(f"{roots[0]} holds none of the images in {' or '.join(self.folders[:2])}. {self.get}")

    @staticmethod
    def _places(folder: Path) -> Places:
        return Places((folder,), (folder,), ignores_case=True)


def release(name: str) -> Callable[[str, str], Dataset]:
    return Release(**{key: value for key, value in RELEASES[name].items() if key != "says"}).open


def open_nips2017(spec: str, location: str) -> Dataset:
    """Return the images of a folder with `images.csv` (column ImageId) and `images/*.png`, at their own size."""
    file, problems = find_labels(location, ["images.csv"], how_to_get=RELEASES["nips2017"]["get"])[0], Problems(spec)
    table = read_labels(file, ("imageid",))
    table.require(("imageid",))
    names = [plain_name(f"{row['imageid']}.png", problems) for row in table.rows]
    files = tuple(file.parent / "images" / name for name in names)
    problems.add("duplicate images", *(name for name, count in Counter(names).items() if count > 1))
    problems.add("missing images", *(f"images/{each.name}" for each in files if not is_file(each)))
    problems.raise_if_any()
    return Dataset(spec, {"test": ImageSet(tuple(names), FileImages(files))}, keeps_size=True)


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
        found, _ = worker().call("iqa_armor.data.releases:variable", kind, str(path), name, payload=contents(path))
        return list(found)


def open_live(spec: str, location: str) -> Dataset:
    """Return the 779 distorted images of a folder of LIVE release 2, divided by a hash of the reference's name (ours).

    DMOS falls with quality, so the score is 100 − DMOS; published DMOS leave [0, 100] a little, scores do so too.

    Source: Sheikh, Sabir and Bovik, "A Statistical Evaluation of Recent Full Reference Image Quality Assessment
    Algorithms", IEEE TIP 2006.
    """
    file = find_labels(location, ["dmos.mat"], how_to_get=LIVE["get"])[0]
    problems, folder, pristine = Problems(spec), file.parent, file.parent / "refimgs"
    names = [f"{kind}/img{number}.bmp" for kind, count in FOLDERS for number in range(1, count + 1)]
    dmos, originals = read_variable("numbers", file, "dmos"), read_variable("numbers", file, "orgs")
    references = read_variable("texts", folder / "refnames_all.mat", "refnames_all")
    for variable, length in (("dmos", len(dmos)), ("orgs", len(originals)), ("refnames_all", len(references))):
        if length != len(names):
            raise DataError(f"{variable} in {folder} has {length} entries, not {len(names)}. {LIVE['get']}")
    images = []
    for name, value, is_original, scene in zip(names, dmos, originals, references, strict=True):
        if not is_original:
            score = finite_score(100 - value, name, problems)
            images.append(LabelledImage(name, folder / name, score, scene=scene, reference=pristine / scene))
    files = (file, folder / "refnames_all.mat")
    return labelled_dataset(images, problems, folder=folder, labels=LIVE["labels"], advice=LIVE["get"], files=files)


def open_clive(spec: str, location: str) -> Dataset:
    """Return the 1,162 images of LIVE In the Wild, divided by a hash of the names (ours), without the practice images.

    Source: Ghadiyaram and Bovik, "Massive Online Crowdsourced Study of Subjective and Objective Picture Quality", IEEE
    TIP 2016.
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
