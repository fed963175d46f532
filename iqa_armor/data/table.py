"""Tables of labels, CSV files or Excel sheets: rows with checked columns, and cells as scores and splits."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from iqa_armor.bounded import worker
from iqa_armor.data.base import Split
from iqa_armor.data.problems import Problems
from iqa_armor.errors import DataError
from iqa_armor.reading import reading

SPLIT_NAMES: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "training"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MOST_BYTES = 2**28
Lines = Iterator[tuple[int, list[str]]]  # line number from 1, stripped cells


@dataclass(frozen=True)
class Row:
    """One line of a table, counted from 1: stripped cell texts by lower-case column name."""

    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def score(self, column: str, problems: Problems) -> float:
        """Return a finite score; anything else is noted as a problem."""
        return finite_score(self[column], f"line {self.line}", problems)

    def split(self, column: str, problems: Problems) -> Split:
        """Return the split a cell names; an unknown word is noted as a problem."""
        split = SPLIT_NAMES.get(self[column].lower())
        if split is None:
            problems.add("splits that are not training, validation or test", f"line {self.line}: {self[column]!r}")
        return split or "training"


def finite_score(value: str | float, place: str, problems: Problems) -> float:
    """Return a finite score; anything else is noted as a problem at its place, and NaN."""
    try:
        score = float(value)
    except ValueError:
        problems.add("scores that are no numbers", f"{place}: {value!r}")
        return math.nan
    if not math.isfinite(score):
        problems.add("scores that are not finite", f"{place}: {value}")
        return math.nan
    return score


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a CSV file (UTF-8 with or without byte-order mark; comma, semicolon or tab) or Excel sheet.

    An Excel file ends in .xlsx, and its first sheet is read. Columns are lower-case names that must exist; those of the
    file are compared in lower case.

    Raises:
        DataError: If the file cannot be read, lacks a column, or rows are longer or shorter than the header.
    """
    lines = _sheet_lines(path) if path.suffix.lower() == ".xlsx" else _csv_lines(path)
    header = [cell.lower() for cell in next(lines, (1, []))[1]]
    _check_header(path, header, columns)
    problems, rows = Problems(str(path)), []
    for number, cells in lines:
        if any(cells) and len(cells) != len(header):
            said = f"line {number}: {len(cells)} cells, the header has {len(header)}"
            problems.add("rows of the wrong length", said)
        elif any(cells):
            rows.append(Row(number, dict(zip(header, cells, strict=True))))
    problems.raise_if_any("quote names that hold the separator, then run again")
    if not rows:
        raise DataError(f"{path} lists no images")
    return rows


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    if any(name not in header for name in columns):
        found = ", ".join(header) or "no header"
        raise DataError(f"{path} needs the columns {', '.join(columns)} but has {found}")
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise DataError(f"{path} names the column {repeated[0]!r} twice; keep one")


def _csv_lines(path: Path) -> Lines:
    with reading(path, DataError, advice="name an existing label file"):
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} has more than {MOST_BYTES >> 20} MiB, which no label file takes")
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text; save it as CSV (UTF-8)") from error
    delimiter = max((",", ";", "\t"), key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    with reading(path, DataError, says="is not a CSV file", advice="export it again"):
        for cells in reader:
            yield reader.line_num, [cell.strip() for cell in cells]


def _sheet_lines(path: Path) -> Lines:
    export = f"open it in a spreadsheet program, save the sheet beside it as '{path.stem}.csv', or pip install openpyxl"
    if find_spec("openpyxl") is None:
        raise DataError(f"{path} is an Excel file, which needs openpyxl to be read; {export}")
    with reading(path, DataError, says="cannot be read", advice=export):
        yield from enumerate(worker().call("iqa_armor.data.table:sheet", str(path))[0], start=1)


def sheet(path: str, _: bytes) -> tuple[list[list[str]], bytes]:
    """Return the stripped cells of the first sheet of an Excel file; called in a process of its own."""
    from openpyxl import load_workbook

    rows: Iterable[Iterable[object]] = load_workbook(path, read_only=True, data_only=True).worksheets[0].values
    return [["" if cell is None else str(cell).strip() for cell in row] for row in rows], b""
