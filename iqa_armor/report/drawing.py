"""From matplotlib figures to light inline SVG, with room for labels."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from math import inf
from typing import TYPE_CHECKING

from iqa_armor.report.looks import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1f2328", "#d8dce1"
WIDTH, HEIGHT = 372, 232  # of a panel, in CSS pixels: a phone shows it without shrinking the text much
BELOW, ABOVE = 46, 14  # the axes of a panel
LABEL_GAP = 12.0  # pixels between the middles of neighbouring labels

# What matplotlib writes that an inline picture does not need: whole elements, and parts of tags.
_NEEDLESS = r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>"
_LIGHTER: Mapping[str, str] = {
    r"\s+": " ",
    r"xlink:href": "href",
    r"font-family: [^;\"]*;? ?": "",
    r' transform="rotate\(-0 [^"]*"': "",
    r' (z )?(["/])': r"\1\2",
}


@dataclass(frozen=True)
class Chart:
    """One panel.

    Args:
        title: What it shows.
        description: What there is to see, in words and figures, for those who cannot see it.
        svg: An `<svg>` element that holds both.
    """

    title: str
    description: str
    svg: str


@dataclass(frozen=True)
class Label:
    """A text to stand beside a point (x, y), in data units."""

    text: str
    x: float
    y: float
    color: str


@contextmanager
def panel(identifier: str, *, labels: int = 0) -> Iterator[tuple[Figure, Axes]]:
    """Give an empty figure with plain axes, drawn and saved under settings of our own.

    Args:
        identifier: Salt of the ids inside the SVG, different for every panel of a page.
        labels: How many have to stand below one another; the panel is as high as they need.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",  # text stays text: light, selectable, in the reader's own font
        "svg.hashsalt": identifier,
        "text.parse_math": False,  # a dollar sign in a name is a dollar sign
        "path.simplify": False,
        "font.size": 10.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.7,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
    }
    with style.context(settings, after_reset=True), warnings.catch_warnings():
        # Glyphs are missing from the font that lays text out, not from the reader's.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        height = max(HEIGHT, round(BELOW + LABEL_GAP * labels + ABOVE))
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        axes = figure.add_axes((0.15, BELOW / height, 0.8, 1 - (BELOW + ABOVE) / height))
        axes.patch.set_visible(False)
        yield figure, axes


def make_room(axes: Axes, labels: Sequence[Label]) -> None:
    """Leave space on the right for labels, as much as the longest of them needs."""
    longest = max((len(label.text) for label in labels), default=0)
    left, bottom, _, height = axes.get_position().bounds
    axes.set_position((left, bottom, 0.97 - left - (longest * 5.6 + 16) / WIDTH, height))


def label_right(axes: Axes, labels: Sequence[Label]) -> None:
    """Write labels in a column right of the axes, beside their points and not over one another."""
    pixels = axes.bbox.height
    to_axes = axes.transScale + axes.transLimits
    heights = [float(to_axes.transform((label.x, label.y))[1]) * pixels for label in labels]
    for label, height in zip(labels, spread(heights, LABEL_GAP, highest=pixels), strict=True):
        axes.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(1 + 12 / axes.bbox.width, height / pixels),
            textcoords="axes fraction",
            color=label.color,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.color,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def spread(values: Sequence[float], gap: float, *, highest: float) -> list[float]:
    """Return the values moved apart to at least `gap`, in their order and as near to where they were as may be.

    They stay between 0 and `highest` if they fit. Values that would touch become a group around their mean.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[tuple[float, int]] = []  # middle, members
    for index in order:
        middle, count = values[index], 1
        while groups and middle - groups[-1][0] < gap * (count + groups[-1][1]) / 2:
            before, members = groups.pop()
            middle, count = (middle * count + before * members) / (count + members), count + members
        groups.append((middle, count))
    placed = [middle + gap * (i - (count - 1) / 2) for middle, count in groups for i in range(count)]
    placed = _limited(_limited(placed, gap, lowest=0.0), gap, highest=highest)
    return [place for _, place in sorted(zip(order, placed, strict=True))]


def _limited(ascending: Sequence[float], gap: float, *, lowest: float = -inf, highest: float = inf) -> list[float]:
    """Return values at least `gap` apart, pushed up from `lowest` or down from `highest`."""
    count = len(ascending)
    raised = [max(value, lowest + gap * i) for i, value in enumerate(ascending)]
    return [min(value, highest - gap * (count - 1 - i)) for i, value in enumerate(raised)]


def to_chart(figure: Figure, *, title: str, description: str) -> Chart:
    """Return the figure as an SVG element to stand inside HTML, without ids nobody uses and without namespaces."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    markup = buffer.getvalue()
    body = re.sub(_NEEDLESS, "", markup[markup.index(">", markup.index("<svg")) + 1 :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r">\s+<", "><", re.sub(r"<[^>]*>", lambda tag: _lighter(tag[0], used), body))
    height = round(figure.get_figheight() * 72)
    head = f'<svg role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    words = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    return Chart(title, description, head + words + body.strip())


def _lighter(tag: str, used: Set[str]) -> str:
    for pattern, replacement in _LIGHTER.items():
        tag = re.sub(pattern, replacement, tag)
    tag = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", tag)
    return re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
