"""SPAQ: 11,125 photographs of 66 smartphones with opinion scores."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iqa_armor.data.base import Dataset
from iqa_armor.data.problems import Problems
from iqa_armor.data.published import image_file
from iqa_armor.data.tables import (
    Entry,
    Row,
    check_constant,
    check_duplicates,
    hashed_splits,
    image_sets,
    parse_score,
    read_table,
)
from iqa_armor.errors import DataError

LABEL_FILE = "MOS and Image attribute scores"
COLUMNS = ("image name", "mos")
HOW_TO_GET = f"SPAQ is at https://github.com/h4nwei/SPAQ: unpack TestImage/ and Annotations/{LABEL_FILE}.xlsx"
HOW_TO_EXPORT = (
    f"Open it in a spreadsheet program, save the sheet beside it as '{LABEL_FILE}.csv' (columns Image name and "
    "MOS are enough), or pip install openpyxl"
)


def open_spaq(spec: str, location: str) -> Dataset:
    """Return SPAQ, divided 70/10/20 by a hash of the names.

    The label file is an Excel sheet; a CSV export beside it is taken first, and reading the sheet itself
    needs openpyxl.

    Args:
        spec: The user's text, for messages and records.
        location: Folder with `Annotations` and `TestImage`, or one with that folder in it.

    Raises:
        DataError: If the label file or images are missing, rows are unusable, or only the sheet is there
            and openpyxl is not.

    Source:
        Fang, Zhu, Zeng, Ma and Wang, "Perceptual Quality Assessment of Smartphone Photography", CVPR 2020. It
        has no official split; this one is by name (ours).
    """
    labels = _label_file(Path(location).expanduser())
    rows = read_table(labels, COLUMNS) if labels.suffix == ".csv" else _read_sheet(labels)
    names = [row.values["image name"] for row in rows]
    images = labels.parents[1] / "TestImage"
    problems = Problems(spec)
    entries = [
        Entry(name, image_file(images, name, problems), split, parse_score(row, "mos", problems))
        for name, row, split in zip(names, rows, hashed_splits(names), strict=True)
    ]
    check_duplicates(entries, problems)
    check_constant(entries, problems)
    problems.raise_if_any(HOW_TO_GET)
    return Dataset(spec, image_sets(entries), labels="MOS as published, 0 to 100")


def _label_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. {HOW_TO_GET}")
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        for extension in (".csv", ".xlsx"):
            file = place / "Annotations" / f"{LABEL_FILE}{extension}"
            if file.is_file():
                return file
    raise DataError(f"{folder} holds no Annotations/{LABEL_FILE}.csv or .xlsx. {HOW_TO_GET}")


def _read_sheet(path: Path) -> list[Row]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise DataError(f"{path} is an Excel file, which needs openpyxl to be read. {HOW_TO_EXPORT}") from error
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        try:
            return _sheet_rows(path, book.worksheets[0].iter_rows(values_only=True))
        finally:
            book.close()
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}. {HOW_TO_EXPORT}") from error


def _sheet_rows(path: Path, lines: Iterable[tuple[Any, ...]]) -> list[Row]:
    cells = [["" if cell is None else str(cell).strip() for cell in line] for line in lines]
    header = [cell.lower() for cell in cells[0]] if cells else []
    if any(header.count(column) != 1 for column in COLUMNS):
        raise DataError(f"{path} needs the columns {', '.join(COLUMNS)} but has {', '.join(header) or 'no header'}")
    rows = [
        Row(number, dict(zip(header, line, strict=False)))
        for number, line in enumerate(cells[1:], start=2)
        if any(line)
    ]
    if not rows:
        raise DataError(f"{path} lists no images")
    return rows
