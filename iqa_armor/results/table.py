"""The table that an evaluation fills: a row per model, dataset, image, attack and budget."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from iqa_armor.errors import UsageError
from iqa_armor.files import replacing
from iqa_armor.results.rows import TEXT, Format, line_of, require_writer, write_parquet

Column = NDArray[Any]
CLEAN = ""  # the attack and the budget of clean images
TEXTS = ("model", "dataset", "image", "attack", "budget")
# Opinion, score in model units, direction of an attack that has several; of attacked images the distances in [0, 1]
# pixels and decibels; behind a purifier the quality of purified images, of clean ones also the score without it; of
# clean images the seconds that scoring took.
NUMBERS = ("mos", "score", "way", "linf", "l2", "psnr", "quality", "undefended", "seconds")
SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows as columns of one length: objects (str) for `TEXTS`, float64 for `NUMBERS`, nan where not measured."""

    columns: Mapping[str, Column]

    @classmethod
    def of(cls, count: int, **given: Any) -> Self:
        """Return a table of `count` rows; a column is a sequence, one value for all rows, or empty."""
        columns: dict[str, Column] = {name: np.full(count, "", dtype=object) for name in TEXTS}
        columns |= {name: np.full(count, math.nan) for name in NUMBERS}
        for name, column in columns.items():
            column[:] = given.get(name, column)
        return cls(columns)

    @classmethod
    def joined(cls, tables: Sequence[Self]) -> Self:
        parts = [table.columns for table in tables] or [cls.of(0).columns]
        return cls({name: np.concatenate([part[name] for part in parts]) for name in (*TEXTS, *NUMBERS)})

    @classmethod
    def from_plain(cls, columns: Mapping[str, Sequence[Any]]) -> Self:
        """Return the table that `as_plain` wrote; a ValueError if a column is missing or of another length."""
        if not {"image", "score"} <= {*columns} <= {*TEXTS, *NUMBERS} or len(set(map(len, columns.values()))) != 1:
            raise ValueError("columns are missing, unknown or of different lengths")
        numbers = {name: np.array(values, dtype=np.float64) for name, values in columns.items() if name in NUMBERS}
        return cls.of(len(columns["image"]), **{**columns, **numbers})

    def __len__(self) -> int:
        return len(self.columns["score"])

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def where(self, **values: str) -> Self:
        fits = np.logical_and.reduce([self[name] == value for name, value in values.items()])
        return self.take(np.flatnonzero(fits))

    def take(self, rows: Any) -> Self:
        return type(self)({name: column[rows] for name, column in self.columns.items()})

    def changed(self, **given: Any) -> Self:
        """Return a table with other columns in the place of some; they are given as in `of`."""
        return self.of(len(self), **{**self.columns, **given})

    def as_plain(self) -> dict[str, list[Any]]:
        """Return the columns that hold anything as lists for JSON, with None for nan."""
        filled = {name: column for name, column in self.columns.items() if name in TEXTS or not np.isnan(column).all()}
        return {name: _plain(column) for name, column in filled.items()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every row as plain values by column, with None for nan."""
        for values in zip(*map(_plain, self.columns.values()), strict=True):
            yield dict(zip(self.columns, values, strict=True))


def check_table_file(path: Path | str) -> None:
    """Refuse a file of an unknown suffix (UsageError), or one that a missing package writes (ArmorError), at once."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"cannot tell what kind of table {path} is to be; known are {', '.join(SUFFIXES)}")
    require_writer(path.suffix[1:])


def write_table(table: Table, path: Path | str) -> None:
    """Write a table, whole or not at all, as its suffix says; nan is empty or null. Raises as `check_table_file`."""
    path = Path(path)
    check_table_file(path)
    with replacing(path) as unfinished:
        if path.suffix == ".parquet":
            write_parquet(unfinished, table.rows(), texts=TEXTS, numbers=NUMBERS)
            return
        kind: Format = "csv" if path.suffix == ".csv" else "jsonl"
        with unfinished.open("w", **TEXT) as file:
            if kind == "csv":
                file.write(line_of(dict(zip(table.columns, table.columns, strict=True)), kind))
            file.writelines(line_of(row, kind) for row in table.rows())


def _plain(column: Column) -> list[Any]:
    values = column.tolist()
    return values if column.dtype == object else [None if math.isnan(value) else value for value in values]
