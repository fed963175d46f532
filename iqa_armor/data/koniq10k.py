"""KonIQ-10k: 10,073 photographs with opinion scores and an official split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from iqa_armor.data.base import Dataset
from iqa_armor.data.problems import Problems
from iqa_armor.data.tables import (
    Entry,
    Row,
    check_constant,
    check_duplicates,
    image_sets,
    parse_score,
    parse_split,
    read_table,
)
from iqa_armor.errors import DataError

LABEL_FILES = ("koniq10k_distributions_sets.csv", "koniq10k_scores_and_distributions.csv")
COLUMNS = ("image_name", "mos", "set")
RELEASES = ("1024x768", "512x384")
HOW_TO_GET = (
    "KonIQ-10k is at https://database.mmsp-kn.de/koniq-10k-database.html: unpack koniq10k_1024x768.zip or "
    "koniq10k_512x384.zip and put koniq10k_distributions_sets.csv into the same folder"
)


def open_koniq10k(spec: str, location: str) -> Dataset:
    """Return KonIQ-10k in its official split, from the folder that holds its label file and images.

    The images of the 1024x768 release are taken where both are present.

    Args:
        spec: The user's text, for messages and records.
        location: Folder with the label file and the images in `1024x768` or `512x384`, also one level deeper.

    Raises:
        DataError: If the label file or images are missing, or rows are unusable.

    Source:
        Hosu et al., "KonIQ-10k: An Ecologically Valid Database for Deep Learning of Blind Image Quality
        Assessment", IEEE TIP 2020, arXiv:1910.06180.
    """
    folder = Path(location).expanduser()
    rows = read_table(_label_file(folder), COLUMNS)
    names = [row.values["image_name"] for row in rows]
    images = _image_folder(folder, names)
    present = _file_names(images)
    problems = Problems(spec)
    problems.extend(f"missing images in {images}", (name for name in names if name not in present))
    entries = [_entry(row, images, problems) for row in rows]
    check_duplicates(entries, problems)
    check_constant(entries, problems)
    problems.raise_if_any()
    return Dataset(spec, image_sets(entries))


def _entry(row: Row, images: Path, problems: Problems) -> Entry:
    name = row.values["image_name"]
    return Entry(name, images / name, parse_split(row, "set", problems), parse_score(row, "mos", problems))


def _label_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. {HOW_TO_GET}")
    places = (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
    for name in LABEL_FILES:
        for place in places:
            if (place / name).is_file():
                return place / name
    raise DataError(f"{folder} holds no {LABEL_FILES[0]}. {HOW_TO_GET}")


def _image_folder(folder: Path, names: Sequence[str]) -> Path:
    """Return the first folder of either release that holds any image of the label file."""
    wanted = set(names)
    candidates = [
        place
        for release in RELEASES
        for place in (
            folder / release,
            folder / f"koniq10k_{release}" / release,
            folder / f"koniq10k_{release}",
            folder / "images" / release,
        )
    ]
    for place in (*candidates, folder / "images", folder):
        if wanted & _file_names(place):
            return place
    raise DataError(f"{folder} holds none of the images in 1024x768 or 512x384. {HOW_TO_GET}")


def _file_names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as found:
        return {item.name for item in found if item.is_file()}
