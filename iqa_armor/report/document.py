"""What a report says, as values that `terminal` and `page` lay out: text, tables, charts and pictures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal, Self

Tone = Literal["plain", "strong", "dim", "good", "bad", "caution"]
READINGS: Mapping[str, Tone] = {"better": "good", "worse": "bad", "not separable": "dim", "not defined": "dim"}


@dataclass(frozen=True)
class Mark:
    """How one model is drawn: colour as CSS, matplotlib's marker, and the same shape as a character; filled or not."""

    color: str
    marker: str
    symbol: str
    is_hollow: bool = False


@dataclass(frozen=True)
class Cell:
    """A text with a tone; `mark` stands in front of it where there are colours."""

    text: str
    tone: Tone = "plain"
    mark: Mark | None = None


@dataclass(frozen=True)
class Column:
    """One column of a table; neighbours under one heading, their `group`, may be shown as one column."""

    heading: str
    group: str = ""
    kind: Literal["number", "text", "prose"] = (
        "number"  # numbers stand on the right and are never broken; prose is long
    )
    spare: int = 0  # the higher, the earlier it is left out where there is no room; 0 for never
    meaning: str = ""  # for those who ask


Row = tuple[Cell | None, ...]  # None: the cell above reaches down here


@dataclass(frozen=True)
class Rows:
    """Rows that belong together, under the name of what they are about."""

    rows: tuple[Row, ...]
    heading: Cell | None = None


@dataclass(frozen=True)
class Table:
    """A title, columns the first of which names the rows, groups of rows, and notes below."""

    title: str
    columns: tuple[Column, ...]
    groups: tuple[Rows, ...]
    notes: tuple[str, ...] = ()

    @property
    def column_groups(self) -> list[tuple[str, list[int]]]:
        """Headings of neighbouring columns with the places of these; a column without such a heading is alone."""
        keys = [(column.group, 0 if column.group else place) for place, column in enumerate(self.columns)]
        return [(group, list(places)) for (group, _), places in groupby(range(len(keys)), key=keys.__getitem__)]

    def without(self, spare: int) -> Self:
        """Return the table without columns that are as dispensable as `spare` or more so."""
        kept = [place for place, column in enumerate(self.columns) if column.spare < spare]
        groups = (replace(each, rows=tuple(tuple(row[i] for i in kept) for row in each.rows)) for each in self.groups)
        return replace(self, columns=tuple(self.columns[i] for i in kept), groups=tuple(groups))


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str
    tone: Tone = "dim"


@dataclass(frozen=True)
class Series:
    """Points (x, y) in data units, drawn alike, with a label beside the last of them; nan leaves a gap."""

    points: tuple[tuple[float, float], ...]
    mark: Mark
    label: str = ""
    style: Literal["marks", "line", "joined", "dots", "segments"] = "marks"


@dataclass(frozen=True)
class Chart:
    """One panel; `description` says what there is to see, in words and figures, for those who cannot see it."""

    title: str
    description: str
    axes: tuple[str, str]  # names of the horizontal and the vertical one
    series: tuple[Series, ...]
    ticks: Mapping[float, str] = field(default_factory=dict)  # texts along the horizontal axis
    limits: tuple[float, float | None] | None = None  # of the vertical axis
    levels: tuple[tuple[float, str], ...] = ()  # dashed lines across, with their colours
    has_diagonal: bool = False  # marks equal values
    is_log: bool = False


@dataclass(frozen=True)
class Panels:
    """Charts side by side, with a heading, what colours mean as (colour, text), and a note above."""

    charts: tuple[Chart, ...]
    heading: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class ImageFile:
    """An image file that browsers show, what it shows for those who cannot see it, and a caption."""

    data: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Images side by side below a name and a caption."""

    name: str
    caption: str
    images: tuple[ImageFile, ...]


@dataclass(frozen=True)
class Terms:
    """Names with what they stand for; several may have one name. `is_prose` for explanations."""

    entries: tuple[tuple[str, str], ...]
    is_prose: bool = False


Part = Note | Table | Panels | Gallery | Terms


@dataclass(frozen=True)
class Section:
    """Parts under a title; details are left out by the terminal, `summary` opens what is folded away at first."""

    title: str
    parts: tuple[Part, ...]
    is_detail: bool = False
    summary: str = ""


@dataclass(frozen=True)
class Verdict:
    """What all comes to: `state` gives the colour ("better", "worse", "mixed", "open", "alone" or "caution")."""

    state: str
    headline: str
    warnings: tuple[tuple[str, str], ...] = ()  # what failed, and what is known of it: the figures may be too good
    sentences: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()  # about the data


@dataclass(frozen=True)
class Report:
    """All that is shown of one result."""

    title: str
    facts: Terms  # models and data
    sections: tuple[Section, ...]
    kind: str  # id of the page's element with the JSON
    json: str  # the result itself, on one line
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()  # what the figures are worth


def row(*cells: Cell | str | None) -> Row:
    return tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells)


def number_columns(headings: Iterable[str], *, spare: int = 0) -> list[Column]:
    return [Column(heading, spare=spare) for heading in headings]
