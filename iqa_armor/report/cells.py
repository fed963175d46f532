"""What tables of the page are made of."""

from __future__ import annotations

from dataclasses import dataclass

from iqa_armor.report.looks import looks, row_name
from iqa_armor.report.notation import short
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        text: What it says.
        kind: Class of its style.
        scope: Of a heading: "col", "colgroup", "row" or "rowgroup"; empty for a value.
        columns: Columns it spans.
        rows: Rows it spans.
        symbol: The mark of a model in the charts, in front of the text.
        color: Colour of that mark.
    """

    text: str
    kind: str = ""
    scope: str = ""
    columns: int = 1
    rows: int = 1
    symbol: str = ""
    color: str = ""


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A caption, rows of headings, groups of rows, and a note below."""

    caption: str
    head: tuple[Row, ...]
    groups: tuple[tuple[Row, ...], ...]
    note: str = ""


def name_cell(
    outcome: Outcome, model: ModelEntry, *, scope: str = "row", rows: int = 1, columns: int = 1, text: str = ""
) -> Cell:
    """Return a heading with the model's name, or another text, and its mark in the charts."""
    look = looks(outcome)[model.name]
    shown = text or row_name(outcome, model) + " (baseline)" * (model.name == outcome.baseline)
    return Cell(shown, "model", scope, columns, rows, look.symbol, look.color)


def across(outcome: Outcome, model: ModelEntry, columns: int) -> Row:
    """Return a row that heads the rows of one model."""
    return (name_cell(outcome, model, scope="rowgroup", columns=columns),)


def head_cell(text: str) -> Cell:
    """Return the heading of a column of numbers."""
    return Cell(text, kind="n", scope="col")


def value_cell(text: str) -> Cell:
    """Return a number."""
    return Cell(text, kind="n")


def figure_text(value: float | None) -> str:
    """Return a figure like `short`, with a true minus sign."""
    return minus(short(value))


def minus(text: str) -> str:
    """Return a number with a true minus sign."""
    return text.replace("-", "−")
