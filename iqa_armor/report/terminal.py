"""A report in the terminal."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from iqa_armor.report.document import READINGS, Cell, Note, Report, Rows, Section, Table, Verdict

STYLES = {"plain": "", "strong": "bold", "dim": "dim", "good": "green", "bad": "red", "caution": "yellow"}  # by tone
GAP = 2  # columns of the terminal between those of a table
ROOMY = 28  # a text may take so much width before dispensable columns do
WORD = 16  # longer ones may be broken behind punctuation
HEADING_LINES = (5, 3)  # where there is little room, and else
BREAK = "\u200b"  # a place of no width where a line may end


@dataclass(frozen=True)
class TerminalReport:
    """A rich renderable: the verdict, the tables and notes of a report, laid out for the console's width."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.report.verdict is not None:
            yield from _verdict(self.report.verdict)
        for section in self.report.sections:
            if not section.is_detail:
                yield from _section(section, options.max_width)
        facts = self.report.facts.entries
        names = ["" if place and facts[place - 1][0] == name else f"{name}:" for place, (name, _) in enumerate(facts)]
        lines = (f"{name:{max(map(len, names))}} {value}" for name, (_, value) in zip(names, facts, strict=True))
        yield Text("\n".join(["", *lines, *self.report.notes]), style=STYLES["dim"])


@dataclass(frozen=True)
class _Shown:
    """Columns of a table that stand as one: their heading and texts, a line each."""

    heading: str
    kind: str
    cells: tuple[tuple[Text, ...], ...]  # by group of rows

    @property
    def widths(self) -> tuple[int, int, int]:
        """The least width that breaks no word, one at which texts are easy to read, and one that breaks no text."""
        texts = [text.plain for group in self.cells for text in group]
        whole = max(map(cell_len, texts), default=0)
        least = whole if self.kind == "number" else max(map(_longest_piece, texts), default=0)
        squeezed, headed = (
            next(
                w for w in itertools.count(_longest_piece(self.heading)) if _wrapped(self.heading, w).count("\n") < most
            )
            for most in HEADING_LINES
        )
        natural = max(map(cell_len, self.heading.split("\n")))
        whole = max(whole, headed)
        whole = natural if whole < natural <= whole + GAP else whole
        return max(least, squeezed), min(whole, max(least, headed, ROOMY)), whole


def _verdict(verdict: Verdict) -> Iterator[Text]:
    style = "bold yellow" if verdict.state == "caution" else "bold"
    for sentence in (verdict.headline, *verdict.sentences, *verdict.caveats):
        text = Text(sentence, style="dim" if verdict.state == "alone" and sentence == verdict.headline else style)
        for reading, tone in READINGS.items():
            text.highlight_words([f"({reading})"], STYLES[tone])
        yield text
    yield from (Text(f"{what} {why}", style=STYLES["caution"]) for what, why in verdict.warnings)


def _section(section: Section, width: int) -> RenderResult:
    for place, part in enumerate(section.parts):
        if isinstance(part, Table):
            yield Text("")
            yield from _table(part, width)
        elif isinstance(part, Note):
            yield from [Text("")] if place == 0 else []
            yield Text(part.text, style=STYLES["dim"])


def _table(table: Table, width: int) -> RenderResult:
    yield Text(table.title, style=STYLES["strong"])
    for block, columns in enumerate(_fitted(table, width)):
        yield from [Text("")] if block else []
        widths = _widths(columns, width)
        yield _grid([[Text(column.heading) for column in columns]], columns, widths, vertical="bottom")
        yield Text("─" * min(width, sum(widths) + GAP * (len(widths) - 1)), style=STYLES["dim"])
        for place, group in enumerate(table.groups):
            if group.heading is not None:
                yield Text(group.heading.text, style=STYLES["strong"])
            yield _grid(zip(*(column.cells[place] for column in columns), strict=True), columns, widths)
    if table.notes:
        yield Text("\n".join(table.notes), style=STYLES["dim"])


def _fitted(table: Table, width: int) -> list[list[_Shown]]:
    """Return the columns without dispensable ones; where there is no room, the right ones follow below the first."""
    for spare in sorted({column.spare for column in table.columns}, reverse=True):
        first, *others = _joined(table.without(spare + 1))
        if sum(column.widths[1] + GAP for column in (first, *others)) - GAP <= width:
            return [[first, *others]]
    blocks = [[first]]
    for column in others:
        if sum(GAP + each.widths[0] for each in (*blocks[-1], column)) - GAP > width and len(blocks[-1]) > 1:
            blocks.append([first])
        blocks[-1].append(column)
    return blocks


def _widths(columns: Sequence[_Shown], width: int) -> list[int]:
    """Return the widths of columns: the least ones, and more from left to right while there is room."""
    widths = [column.widths[0] for column in columns]
    for aim in (1, 2):
        for place, column in enumerate(columns):
            room = width - GAP * (len(columns) - 1) - sum(widths)
            widths[place] += max(0, min(column.widths[aim] - widths[place], room))
    return widths


def _joined(table: Table) -> Iterator[_Shown]:
    """Yield the columns, those with a common heading as one: "pgd1/pgd8" over ".455/1.821"."""
    for group, places in table.column_groups:
        heading = f"/{BREAK}".join(table.columns[place].heading for place in places)
        cells = tuple(tuple(_cell(each, row, places) for row in each.rows) for each in table.groups)
        yield _Shown(f"{group}\n{heading}" if group else heading, table.columns[places[0]].kind, cells)


def _cell(group: Rows, row: Sequence[Cell | None], places: Sequence[int]) -> Text:
    shown = [cell for place in places if (cell := row[place]) is not None]
    indent = "  " if places[0] == 0 and group.heading is not None else ""
    return Text(indent + "/".join(cell.text for cell in shown), style=STYLES[shown[0].tone] if shown else "")


def _grid(
    rows: Iterable[Sequence[Text]], columns: Sequence[_Shown], widths: Sequence[int], *, vertical: Any = "top"
) -> Grid:
    grid = Grid(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        justify: Any = "right" if column.kind == "number" else "left"
        grid.add_column(justify=justify, vertical=vertical, width=width, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(_wrapped(text.plain, w), style=text.style) for text, w in zip(row, widths, strict=True)))
    return grid


def _wrapped(text: str, width: int) -> str:
    """Break a text between words; only words longer than a line are broken, behind punctuation."""
    lines = []
    for whole in text.split("\n"):
        line = indent = " " * (len(whole) - len(whole.lstrip(" ")))
        for piece in _pieces(whole.lstrip(" "), width - len(indent)):
            if line.strip() and cell_len((line + piece).rstrip()) > width:
                lines.append(line.rstrip())
                line = indent
            line += piece
        lines.append(line.rstrip())
    return "\n".join(lines).replace(BREAK, "")


def _pieces(text: str, width: int) -> Iterator[str]:
    for word in re.findall(rf"[^ {BREAK}]*[ {BREAK}]+|[^ {BREAK}]+", text):
        fits = cell_len(word.rstrip()) <= width
        yield from [word] if fits else re.findall(r"[^-_/+:,=]*[-_/+:,= ]+|[^-_/+:,=]+", word)


def _longest_piece(text: str) -> int:
    return max((cell_len(piece.rstrip()) for line in text.split("\n") for piece in _pieces(line, WORD)), default=0)
