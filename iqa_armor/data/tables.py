"""Label files: CSV tables as rows with checked columns, and the images and scores they name."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from iqa_armor.data.base import SPLITS, ImageSet, Split
from iqa_armor.data.images import FileImages
from iqa_armor.data.problems import Problems
from iqa_armor.errors import DataError

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        line: Line number in the file, from 1.
        values: Cell texts by lower-case column name, stripped.
    """

    line: int
    values: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """One image that a dataset names.

    Args:
        name: Unique name shown to the user.
        path: Its file.
        split: Split it belongs to.
        mos: Opinion score, higher is better.
        reference: File of its pristine original, or None.
    """

    name: str
    path: Path
    split: Split
    mos: float
    reference: Path | None = None


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a CSV file (UTF-8 with or without byte-order mark; comma, semicolon or tab).

    Column names are compared in lower case.

    Args:
        path: File to read.
        columns: Lower-case names that must exist.

    Raises:
        DataError: If the file cannot be read, lacks a column, or rows are longer or shorter than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save it as CSV (UTF-8)") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; name an existing label file") from error
    delimiter = _delimiter(text.partition("\n")[0])
    try:
        return _rows(path, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), columns)
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}") from error


def _delimiter(header: str) -> str:
    return max((",", ";", "\t"), key=header.count)


def _rows(path: Path, reader: csv._reader, columns: Sequence[str]) -> list[Row]:  # type: ignore[name-defined]
    header = [cell.strip().lower() for cell in next(reader, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        found = ", ".join(header) or "no header"
        raise DataError(f"{path} needs the columns {', '.join(columns)} but has {found}")
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise DataError(f"{path} names the column {repeated[0]!r} twice; keep one")
    problems, rows = Problems(str(path)), []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            problems.add(
                "rows of the wrong length",
                f"line {reader.line_num}: {len(cells)} cells, the header has {len(header)}",
            )
            continue
        rows.append(Row(reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))))
    problems.raise_if_any("quote names that hold the separator, then run again")
    if not rows:
        raise DataError(f"{path} lists no images")
    return rows


def parse_score(row: Row, column: str, problems: Problems) -> float:
    """Return a finite score; anything else is noted as a problem and NaN."""
    text = row.values[column]
    try:
        score = float(text)
    except ValueError:
        problems.add("scores that are no numbers", f"line {row.line}: {text!r}")
        return math.nan
    if not math.isfinite(score):
        problems.add("scores that are not finite", f"line {row.line}: {text}")
        return math.nan
    return score


def parse_split(row: Row, column: str, problems: Problems) -> Split:
    """Return the split a cell names; an unknown word is noted as a problem."""
    text = row.values[column]
    split = SPLIT_NAMES.get(text.lower())
    if split is None:
        problems.add("splits that are not training, validation or test", f"line {row.line}: {text!r}")
        return "training"
    return split


def check_duplicates(entries: Sequence[Entry], problems: Problems) -> None:
    """Note files that are named twice, apart by whether the second place is another split."""
    first: dict[Path, Entry] = {}
    for entry in entries:
        earlier = first.setdefault(entry.path, entry)
        if earlier is entry:
            continue
        if earlier.split == entry.split:
            problems.add("duplicate images", entry.name)
        else:
            problems.add("images in two splits", f"{entry.name}: {earlier.split} and {entry.split}")


def check_finite(entries: Sequence[Entry], problems: Problems) -> None:
    """Note scores that are infinite or no numbers, where they were not parsed from text."""
    problems.extend("scores that are not finite", (entry.name for entry in entries if not math.isfinite(entry.mos)))


def check_constant(entries: Sequence[Entry], problems: Problems) -> None:
    """Note splits of two images or more whose scores are all equal: nothing can be learned or ranked."""
    for split in SPLITS:
        scores = [entry.mos for entry in entries if entry.split == split]
        if len(scores) > 1 and len(set(scores)) == 1:
            problems.add("splits with constant scores", f"{split}: {len(scores)} images, all {scores[0]:g}")


def hashed_splits(names: Sequence[str]) -> list[Split]:
    """Return a split for each name: exactly 70/10/20 %, by the order of a hash of the names.

    From three images on no split is empty.
    """
    count = len(names)
    test = max(round(0.2 * count), int(count >= 3))
    validation = max(round(0.1 * count), int(count >= 3))
    order = sorted(range(count), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    splits: list[Split] = ["training"] * count
    for rank, index in enumerate(order):
        if rank >= count - test:
            splits[index] = "test"
        elif rank >= count - test - validation:
            splits[index] = "validation"
    return splits


def grouped_splits(groups: Sequence[str]) -> list[Split]:
    """Return a split for each image so that no group is in two: 70/10/20 % of the groups, by a hash of theirs.

    Args:
        groups: Group of each image, e.g. the name of its reference.
    """
    distinct = list(dict.fromkeys(groups))
    split_of = dict(zip(distinct, hashed_splits(distinct), strict=True))
    return [split_of[group] for group in groups]


def image_sets(entries: Sequence[Entry]) -> dict[Split, ImageSet]:
    """Return the scored image sets of the splits that occur, in the order of the table."""
    sets: dict[Split, ImageSet] = {}
    for split in SPLITS:
        chosen = [entry for entry in entries if entry.split == split]
        if chosen:
            sets[split] = ImageSet(
                tuple(entry.name for entry in chosen),
                FileImages(tuple(entry.path for entry in chosen)),
                torch.tensor([entry.mos for entry in chosen], dtype=torch.float32),
                references=_references(chosen),
            )
    return sets


def _references(entries: Sequence[Entry]) -> FileImages | None:
    """Return the reader of the originals, or None unless every image has one."""
    paths = tuple(entry.reference for entry in entries if entry.reference is not None)
    return FileImages(paths) if len(paths) == len(entries) else None
