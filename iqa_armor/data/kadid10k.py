"""KADID-10k: 81 photographs, each distorted in 25 ways at 5 levels, with opinion scores."""

from __future__ import annotations

from pathlib import Path

from iqa_armor.data.base import Dataset, Split
from iqa_armor.data.problems import Problems
from iqa_armor.data.published import existing, image_file, release_folder
from iqa_armor.data.tables import (
    Entry,
    Row,
    check_constant,
    check_duplicates,
    grouped_splits,
    image_sets,
    parse_score,
    read_table,
)

LABEL_FILE = "dmos.csv"
COLUMNS = ("dist_img", "ref_img", "dmos")
HOW_TO_GET = (
    "KADID-10k is at https://database.mmsp-kn.de/kadid-10k-database.html: unpack kadid10k.zip, which holds "
    "dmos.csv and images/"
)


def open_kadid10k(spec: str, location: str) -> Dataset:
    """Return KADID-10k, divided 70/10/20 by a hash of the reference's name so that no scene is in two splits.

    Its column `dmos` averages the ratings of a five-point impairment scale on which 5 is imperceptible, so
    it rises with quality in spite of its name and is taken as it is.

    Args:
        spec: The user's text, for messages and records.
        location: Folder with `dmos.csv` and `images`, or one with that folder in it.

    Raises:
        DataError: If the label file or images are missing, or rows are unusable.

    Source:
        Lin, Hosu and Saupe, "KADID-10k: A Large-scale Artificially Distorted IQA Database", QoMEX 2019. It
        has no official split; this one is by reference (ours).
    """
    folder = release_folder(location, LABEL_FILE, HOW_TO_GET)
    rows = read_table(folder / LABEL_FILE, COLUMNS)
    splits = grouped_splits([row.values["ref_img"] for row in rows])
    problems = Problems(spec)
    entries = [
        _entry(row, split, folder / "images", problems=problems) for row, split in zip(rows, splits, strict=True)
    ]
    check_duplicates(entries, problems)
    check_constant(entries, problems)
    problems.raise_if_any(HOW_TO_GET)
    return Dataset(spec, image_sets(entries), labels="dmos as published: it rises with quality, 1 to 5")


def _entry(row: Row, split: Split, images: Path, *, problems: Problems) -> Entry:
    name, reference = row.values["dist_img"], row.values["ref_img"]
    if not reference:
        problems.add("rows without a reference", f"line {row.line}")
    path = image_file(images, name, problems)
    return Entry(name, path, split, parse_score(row, "dmos", problems), existing(images / reference))
