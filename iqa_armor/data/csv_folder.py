"""A user's own images: a label file beside them, or a folder without scores."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.images import EXTENSIONS, FileImages
from iqa_armor.data.problems import SHOWN, Problems
from iqa_armor.data.tables import (
    Entry,
    Row,
    check_constant,
    check_duplicates,
    hashed_splits,
    image_sets,
    parse_score,
    parse_split,
    read_table,
)
from iqa_armor.errors import DataError

MISSING = "missing images"


def open_csv(spec: str, location: str) -> Dataset:
    """Return the dataset of a CSV file with columns image, mos and, if wanted, split.

    Image paths are relative to the file's folder or to the folder `images` beside it. Without a split column
    the images are divided 70/10/20 by a hash of their names.

    Args:
        spec: The user's text, for messages and records.
        location: Path of the CSV file.

    Raises:
        DataError: Listing every missing, repeated or misplaced image and every unusable score.
    """
    file = Path(location).expanduser()
    rows = read_table(file, ("image", "mos"))
    problems = Problems(spec)
    entries = [_entry(row, file.parent, problems) for row in rows]
    if "split" not in rows[0].values:
        splits = hashed_splits([entry.name for entry in entries])
        entries = [replace(entry, split=split) for entry, split in zip(entries, splits, strict=True)]
    check_duplicates(entries, problems)
    check_constant(entries, problems)
    problems.raise_if_any()
    return Dataset(spec, image_sets(entries))


def _entry(row: Row, folder: Path, problems: Problems) -> Entry:
    split = parse_split(row, "split", problems) if "split" in row.values else "training"
    name = row.values["image"].replace("\\", "/")
    if not name:
        problems.add("rows without an image", f"line {row.line}")
    path = _locate(name, folder, problems) if name else folder / f"line {row.line}"
    return Entry(name, path, split, parse_score(row, "mos", problems))


def _locate(name: str, folder: Path, problems: Problems) -> Path:
    """Return the file of a relative name, noting names that leave the folder and files that do not exist."""
    inside = posixpath.normpath(name)
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or inside.split("/")[0] == "..":
        problems.add("image paths outside the label file's folder", name)
        return folder / name
    for path in (folder / inside, folder / "images" / inside):
        if path.is_file():
            return path
    # The search for a neighbor lists the folder, so it is made only for what the message will show.
    hint = _other_case(folder / inside) if problems.count(MISSING) < SHOWN else ""
    problems.add(MISSING, name + hint)
    return folder / inside


def _other_case(path: Path) -> str:
    """Say which neighbor differs only in upper and lower case, the usual reason for a missing file."""
    for folder in (path.parent, path.parent / "images"):
        if folder.is_dir():
            for other in sorted(folder.iterdir()):
                if other.name.lower() == path.name.lower():
                    return f" (there is {other.name})"
    return ""


def open_folder(spec: str, location: str) -> Dataset:
    """Return all images under a folder, without scores, as one test split.

    Names are paths relative to the folder, with forward slashes, in sorted order. Hidden files and folders
    are left out.

    Args:
        spec: The user's text, for messages and records.
        location: Path of the folder.

    Raises:
        DataError: If the folder does not exist or holds no images.
    """
    folder = Path(location).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name a folder of images")
    found = {
        name: path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not _is_hidden(name := path.relative_to(folder).as_posix())
    }
    if not found:
        kinds = " ".join(sorted(EXTENSIONS))
        raise DataError(f"{folder} holds no images ({kinds}); name a folder that does")
    names = tuple(sorted(found))
    return Dataset(spec, {"test": ImageSet(names, FileImages(tuple(found[name] for name in names)))})


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
