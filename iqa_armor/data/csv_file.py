"""A user's own images with a label file beside them."""

import posixpath
from pathlib import Path, PurePosixPath, PureWindowsPath

from iqa_armor.data.base import Dataset
from iqa_armor.data.labelled import LabelledImage, labelled_dataset
from iqa_armor.data.problems import Problems
from iqa_armor.data.table import Row, read_table
from iqa_armor.reading import expanded, is_file


def open_csv(spec: str, location: str) -> Dataset:
    """Return the dataset of a CSV file or Excel sheet with columns image, mos and, if wanted, split.

    Image paths are relative to the file's folder or to the folder `images` beside it. Without a split column the images
    are divided 70/10/20 by a hash of their names. A DataError lists every image and score that cannot be used.
    """
    file, problems = expanded(location), Problems(spec)
    images = [_image(row, file.parent, problems) for row in read_table(file, ("image", "mos"))]
    return labelled_dataset([image for image in images if image is not None], problems, hint=_other_case)


def _image(row: Row, folder: Path, problems: Problems) -> LabelledImage | None:
    name = row["image"].replace("\\", "/")
    split = row.split("split", problems) if "split" in row.values else None
    score = row.score("mos", problems)
    inside = posixpath.normpath(name)
    if not name:
        problems.add("rows without an image", f"line {row.line}")
        return None
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or inside.split("/")[0] == "..":
        problems.add("image paths outside the label file's folder", name)
        return None
    places = (folder / inside, folder / "images" / inside)
    return LabelledImage(name, next(filter(is_file, places), places[0]), score, split)


def _other_case(path: Path) -> str:
    """Say which neighbor differs only in upper and lower case, the usual reason for a missing file."""
    folders = [folder for folder in (path.parent, path.parent / "images") if folder.is_dir()]
    others = (other.name for folder in folders for other in sorted(folder.iterdir()))
    return next((f" (there is {name})" for name in others if name.lower() == path.name.lower()), "")
