"""Tables of labels, CSV files or Excel sheets: rows with checked columns, and cells as scores and splits."""

import csv
import io
import math
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from iqa_armor.bounded import worker
from iqa_armor.data.base import Split
from iqa_armor.data.labelled import Problems
from iqa_armor.errors import DataError, contents, reading
from iqa_armor.machine import capped

SPLIT_NAMES: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "training"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MOST_BYTES = 2**28
MOST_LINES = 2**20  # as in spreadsheets
MOST_SCORE = 1e12  # beyond it squares and sums leave the range of numbers
HEAD_LINES = 20  # in which names of columns are looked for
SEPARATORS = (";", "\t", "|", ",")  # a tie is with decimal commas
Lines = Iterator[tuple[int, list[str]]]  # line number from 1, stripped cells


@dataclass(frozen=True)
class Row:
    """One line of a table, counted from 1: stripped cell texts by lower-case column name."""

    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def score(self, column: str, problems: Problems) -> float:
        return finite_score(self[column], f"line {self.line}", problems)

    def split(self, column: str, problems: Problems, words: Mapping[str, Split] = SPLIT_NAMES) -> Split:
        split = words.get(self[column].lower())
        if split is None:
            problems.add("splits that are not training, validation or test", f"line {self.line}: {self[column]!r}")
        return split or "training"


@dataclass(frozen=True)
class Table:
    """The rows of a label file; where it begins without names, columns are counted from 1."""

    path: Path
    header: tuple[str, ...]
    rows: list[Row]
    has_names: bool

    def require(self, columns: Sequence[str]) -> None:
        """Raise a DataError where one of the columns is missing or there twice, or there are no rows."""
        if any(name not in self.header for name in columns):
            found = ", ".join(filter(None, self.header)) or "no header"
            raise DataError(f"{self.path} needs the columns {', '.join(columns)} but has {found}")
        if twice := [name for name in columns if self.header.count(name) > 1]:
            raise DataError(f"{self.path} names the column {twice[0]!r} twice; keep one")
        if not self.rows:
            raise DataError(f"{self.path} lists no images")


def finite_score(value: str | float, place: str, problems: Problems) -> float:
    """Return a score, of a text also one with a decimal comma; anything else is noted as a problem, and NaN."""
    try:
        score = float(value.replace(",", ".", 1) if isinstance(value, str) and "." not in value else value)
    except ValueError:
        problems.add("scores that are no numbers", f"{place}: {value!r}")
        return math.nan
    if not abs(score) <= MOST_SCORE:
        problems.add(f"scores beyond {MOST_SCORE:g} or not finite", f"{place}: {value}")
        return math.nan
    return score


def is_number(text: str) -> bool:
    return math.isfinite(finite_score(text, "", Problems("")))


def read_labels(path: Path, columns: Sequence[str] = (), *, sheet: str = "") -> Table:
    """Return the rows of a text table or Excel sheet under the first line that holds all columns, or the first of all.

    Any of `SEPARATORS`, or blanks where there are none, part the cells of a text; of Excel the named sheet is read.
    """
    with reading(path, DataError, says="cannot be read", advice="name an existing label file"), capped():
        read = _sheet_lines(path, sheet) if path.suffix.lower() == ".xlsx" else _text_lines(path)
        lines = [(number, cells) for number, cells in islice(read, MOST_LINES) if any(cells)]
        if next(read, None):
            raise DataError(f"{path} has more than {MOST_LINES} lines, which no label file needs; divide it")
        heads = ([cell.lower() for cell in cells] for _, cells in lines[:HEAD_LINES])
        start = next((place for place, head in enumerate(heads) if columns and set(columns) <= set(head)), 0)
        header = [cell.lower() for cell in lines[start][1]] if lines else []
        header[:1] = [name.removeprefix("#").strip() for name in header[:1]]
        while header and not header[-1]:
            header.pop()
        has_names = not any(map(is_number, header)) or all(name.isdecimal() or not name for name in header)
        names = header if has_names else [str(place + 1) for place in range(len(header))]
        problems, rows = Problems(str(path)), []
        for number, cells in lines[start + has_names :]:
            if len(cells) < len(names) or any(cells[len(names) :]):
                said = f"line {number}: {len(cells)} cells, the header has {len(names)}"
                problems.add("rows of the wrong length", said)
            else:
                rows.append(Row(number, dict(zip(names, cells, strict=False))))
        problems.raise_if_any("quote names that hold the separator and numbers with a decimal comma, then run again")
        return Table(path, tuple(names), rows, has_names)


def _text_lines(path: Path) -> Lines:
    content = contents(path, MOST_BYTES)
    try:
        text = content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save it as CSV (UTF-8)") from error
    first, _, rest = text.lstrip("\r\n").partition("\n")
    named = re.fullmatch(r"sep=(.)\r?", first)  # as Excel writes
    separator = named[1] if named else max(SEPARATORS, key=first.count)
    if named is None and separator not in first and " " in first.strip():
        yield from ((number, line.split()) for number, line in enumerate(text.splitlines(), start=1))
        return
    reader = csv.reader(io.StringIO(rest if named else text, newline=""), delimiter=separator)
    with reading(path, DataError, says="is not a CSV file", advice="export it again"):
        for cells in reader:
            yield reader.line_num + bool(named), [cell.strip() for cell in cells]


def _sheet_lines(path: Path, name: str) -> Lines:
    export = f"open it in a spreadsheet program, save the sheet beside it as '{path.stem}.csv', or pip install openpyxl"
    if find_spec("openpyxl") is None:
        raise DataError(f"{path} is an Excel file, which needs openpyxl to be read; {export}")
    with reading(path, DataError, says="cannot be read", advice=export):
        content = contents(path, MOST_BYTES)
        yield from enumerate(worker().call("iqa_armor.data.table:sheet", name, payload=content)[0], start=1)


def sheet(name: str, content: bytes) -> tuple[list[list[str]], bytes]:
    """Return the stripped cells of the named, else the first sheet of an Excel file; called in a process of its own."""
    from openpyxl import load_workbook

    book = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    rows: Iterable[Iterable[object]] = (book[name] if name in book.sheetnames else book.worksheets[0]).values
    return [["" if cell is None else str(cell).strip() for cell in row] for row in rows], b""
