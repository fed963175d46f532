"""Rows of plain values in files: lines of CSV or JSON, Parquet, and a file that grows, on which a later run goes on."""

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Self

from iqa_armor.errors import ArmorError, UsageError, reading
from iqa_armor.files import cut_unfinished, refusing, replacing

Row = Mapping[str, Any]
Format = Literal["csv", "jsonl", "parquet"]
_SAME = 1e-3  # share by which scores differ where batches or machines do
_WAY_OUT = "replace it with --overwrite, or name another file"
_GROUP = 4096  # rows that Parquet keeps together
_ENDS = {"csv": "\r\n", "jsonl": "\n"}
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def line_of(row: Row, kind: Format) -> str:
    if kind != "csv":
        return json.dumps(row) + _ENDS["jsonl"]
    text = io.StringIO()
    csv.writer(text).writerow(row.values())
    return text.getvalue()


def require_writer(kind: str) -> None:
    """Raise an ArmorError where what writes such files is not installed."""
    if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ArmorError("Parquet needs pip install 'iqa-armor[parquet]'; csv and jsonl need nothing")


def write_parquet(path: Path, rows: Iterable[Row], *, texts: Sequence[str], numbers: Sequence[str]) -> None:
    import pyarrow.parquet

    kinds, left = {**dict.fromkeys(texts, pyarrow.string()), **dict.fromkeys(numbers, pyarrow.float64())}, iter(rows)
    with pyarrow.parquet.ParquetWriter(path, schema := pyarrow.schema(kinds)) as writer:
        while group := list(islice(left, _GROUP)):
            plain = [{**row, **{name: printable(row[name]) for name in texts}} for row in group]
            writer.write_table(pyarrow.Table.from_pylist(plain, schema=schema))


class RowFile:
    """Rows of an image each, with these columns, on the disk as they come; Parquet once the block has ended well.

    Meanwhile the rows of a Parquet file stand in a hidden file of JSON lines beside it. What stands at `path` is
    replaced, or with `resume` kept: `done` then holds its images, and a last line that was cut short goes. Raises
    UsageError if what is kept has other columns; OutputError if nothing can be written.
    """

    def __init__(self, path: Path | str, kind: Format, columns: Sequence[str], *, resume: bool = False) -> None:
        self.path, self.kind, self.columns = Path(path), kind, tuple(columns)
        require_writer(kind)
        self.growing = self.path.with_name(f".{self.path.name}.rows") if kind == "parquet" else self.path
        self.resume, self.last = resume, dict[str, Any]()
        self.done: set[str] = set()
        if resume:
            with refusing(self.growing):
                cut_unfinished(self.growing, _ENDS["csv" if kind == "csv" else "jsonl"])
            for row in self._kept():
                self.last = row
                self.done.add(printable(self.last["image"]))
        with refusing(self.growing):
            self._file = self.growing.open("a" if resume else "w", **TEXT)
            if kind == "csv" and not self.done and not self._file.tell():
                self._file.write(",".join(self.columns) + _ENDS["csv"])

    def add(self, row: Row) -> None:
        """Write a row; it has left this process when it returns."""
        with refusing(self.growing):
            self._file.write(line_of(row, self.kind))
            self._file.flush()

    def require_same(self, score: Callable[[Path], float]) -> None:
        """Refuse to go on where the last image, if it can still be scored, has another score than what stands here."""
        if self.last and (file := Path(self.last["image"])).is_file():
            now, then = score(file), self.last["score"]
            if abs(now - then) > _SAME * max(abs(now), abs(then)):
                told = f"{file} has {then:.6g} there and {now:.6g} now"
                raise UsageError(f"{self.path} is of another model, setting or image: {told}; {_WAY_OUT}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if self.kind == "parquet" and kind is None:
            with replacing(self.path) as unfinished:
                write_parquet(unfinished, self._kept(), texts=self.columns[:1], numbers=self.columns[1:])
            self.growing.unlink()

    def _kept(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that are there already: those of a Parquet file, then those of lines."""
        with reading(self.path, UsageError, says="holds no scores", advice="replace it with --overwrite"):
            whole = _rows(self.path, self.kind) if self.resume else ()
            for row in chain(whole, _rows(self.growing, "jsonl") if self.kind == "parquet" else ()):
                if tuple(row) != self.columns or not isinstance(row["image"], str):
                    told = f"{self.path} has columns {', '.join(map(str, row))} and not {', '.join(self.columns)}"
                    raise UsageError(f"{told}; {_WAY_OUT}")
                printable(row["image"])  # is of characters that there are
                yield row | {name: float(row[name]) for name in self.columns[1:]}


def printable(name: str) -> str:
    """Return the name of a file as Unicode, which it need not be."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _rows(path: Path, kind: Format) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    if kind == "parquet":
        from pyarrow.parquet import ParquetFile

        for batch in ParquetFile(path).iter_batches(_GROUP):
            yield from batch.to_pylist()
        return
    with path.open(**TEXT) as file:
        yield from csv.DictReader(file) if kind == "csv" else map(json.loads, file)
