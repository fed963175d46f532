"""A report as a page of HTML, whose charts are light inline SVG with room for labels."""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
import warnings
from collections.abc import Mapping, Sequence, Set
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from iqa_armor.data.images import opened
from iqa_armor.report.document import READINGS, Chart, ImageFile, Report, Series, Table
from iqa_armor.report.formatting import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2328"
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


def render_page(report: Report) -> str:
    """Return a report as the text of one HTML file that needs no other file and no network."""
    home = resources.files("iqa_armor.report")
    rules = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template, style = (home.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css"))
    # It cannot close the element that it stands in; JSON may spell these as escapes.
    json = report.json.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    numbers = itertools.count()
    tools = {"spoken": _spoken, "minus": _minus, "rows_below": _rows_below, "embedded": _embedded}
    tools["draw"] = lambda chart: draw(chart, f"chart{next(numbers)}")
    return rules.from_string(template).render(report=report, style=style, json=json, **tools)


def _minus(text: str) -> str:
    return re.sub(r"(^|[\s\[])-(?=\.?\d)", r"\1−", text)


def _spoken(sentence: str) -> str:
    """Return a sentence as HTML, its readings in colour and its numbers with a true minus."""
    text = _minus(escape(sentence))
    for reading, tone in READINGS.items():
        text = text.replace(f"({reading})", f'(<strong class="{tone}">{reading}</strong>)') if tone != "dim" else text
    return text


def _rows_below(table: Table, group: int, place: tuple[int, int]) -> int:
    """Return how many rows a cell covers: its own, and those below it that have none of their own."""
    row, column = place
    return 1 + len(list(itertools.takewhile(lambda each: each[column] is None, table.groups[group].rows[row + 1 :])))


def _embedded(file: ImageFile) -> tuple[str, int, int]:
    with opened(file.data) as picture:
        kind = Image.MIME[picture.format or "PNG"]
        return f"data:{kind};base64,{base64.b64encode(file.data).decode('ascii')}", *picture.size


def draw(chart: Chart, identifier: str) -> str:
    """Return a chart as an SVG element with title and description; `identifier` differs for every chart of a page."""
    from matplotlib import style
    from matplotlib.figure import Figure

    labelled = [series for series in chart.series if series.label]
    sheet = str(resources.files("iqa_armor.report").joinpath("chart.mplstyle"))
    with style.context([sheet, {"svg.hashsalt": identifier}], after_reset=True), warnings.catch_warnings():
        # Glyphs are missing from the font that lays text out, not from the reader's.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        height = max(HEIGHT, round(BELOW + LABEL_GAP * len(labelled) + ABOVE))
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        # The longest label needs its room on the right.
        wide = 0.82 - (max(len(series.label) for series in labelled) * 5.6 + 16) / WIDTH if labelled else 0.8
        axes = figure.add_axes((0.15, BELOW / height, wide, 1 - (BELOW + ABOVE) / height))
        axes.patch.set_visible(False)
        for series in chart.series:
            _draw(axes, series)
        _set_axes(axes, chart)
        _label_right(axes, labelled)
        return _element(figure, chart)


def spread(values: Sequence[float], gap: float, *, highest: float) -> list[float]:
    """Return the values moved apart to at least `gap`, in order, as little as may be, in [0, highest] if they fit."""
    from scipy.optimize import isotonic_regression

    if not values:
        return []
    # Less the gaps that belong below it, each value must be no smaller than the one before.
    order, gaps = np.argsort(values, kind="stable"), gap * np.arange(len(values))
    placed = np.asarray(isotonic_regression(np.asarray(values)[order] - gaps).x)
    return (placed.clip(0, highest - gaps[-1]) + gaps)[order.argsort()].tolist()  # type: ignore[no-any-return]


def _draw(axes: Axes, series: Series) -> None:
    mark, drawn = series.mark, list[Sequence[float]](zip(*series.points, strict=True))
    marked = {"marker": mark.marker, "markerfacecolor": "white" if mark.is_hollow else mark.color}
    line = {"linestyle": "--", "linewidth": 1.2} if mark.is_hollow else {"linestyle": "-", "linewidth": 1.6}
    looks: Mapping[str, Mapping[str, Any]] = {
        "marks": {**marked, "markersize": 7, "linestyle": "none"},
        "line": {**marked, "markersize": 4.5, **line},
        "joined": {"linewidth": 0.8},
        "dots": {"linewidth": 4, "solid_capstyle": "round", "alpha": 0.85},
        "segments": {"linewidth": 0.6, "alpha": 0.35},
    }
    if series.style == "dots":
        # Segments of no length with round ends are dots, and one path of them is a fifth of as many markers.
        drawn = [[value for each in axis for value in (each, each, math.nan)] for axis in drawn]
    axes.plot(*drawn, color=mark.color, **looks[series.style])


def _set_axes(axes: Axes, chart: Chart) -> None:
    axes.set(xlabel=chart.axes[0], ylabel=chart.axes[1])
    for level, color in chart.levels:
        axes.axhline(level, color=color, linewidth=0.9, linestyle="--")
    if chart.has_diagonal:
        start = chart.series[0].points[0][0]
        axes.axline((start, start), slope=1, color=GREY, linewidth=0.8)
    if chart.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    if chart.ticks:
        axes.set_xticks(list(chart.ticks), list(chart.ticks.values()))
        axes.grid(visible=False, axis="x")
        if not chart.axes[0]:  # names, not numbers
            axes.tick_params(axis="x", labelsize=8.5)
            axes.set_xlim(-0.5, len(chart.ticks) - 0.5)
    else:
        axes.margins(*((0.15, 0.15) if any(series.label for series in chart.series) else (0.04, 0.06)))
        axes.autoscale_view()
    if chart.limits is not None:
        axes.set_ylim(*chart.limits)
        if chart.limits[0] < 0:
            axes.axhline(0, color=INK, linewidth=0.8)


def _label_right(axes: Axes, labelled: Sequence[Series]) -> None:
    """Write labels in a column right of the axes, beside their points and not over one another."""
    pixels = axes.bbox.height
    to_axes = axes.transScale + axes.transLimits
    ends = [[point for point in series.points if math.isfinite(point[1])][-1] for series in labelled]
    placed = spread([float(to_axes.transform(end)[1]) * pixels for end in ends], LABEL_GAP, highest=pixels)
    leader = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4, "relpos": (0, 0.5)}
    for series, end, height in zip(labelled, ends, placed, strict=True):
        at, color = (1 + 12 / axes.bbox.width, height / pixels), series.mark.color
        looks: dict[str, Any] = {"color": color, "va": "center", "arrowprops": {**leader, "color": color}}
        axes.annotate(series.label, end, at, textcoords="axes fraction", annotation_clip=False, **looks)


def _element(figure: Figure, chart: Chart) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    markup = buffer.getvalue()
    body = re.sub(_NEEDLESS, "", markup[markup.index(">", markup.index("<svg")) + 1 :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r">\s+<", "><", re.sub(r"<[^>]*>", lambda tag: _lighter(tag[0], used), body))
    height = round(figure.get_figheight() * 72)
    head = f'<svg role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    return f"{head}<title>{escape(chart.title)}</title><desc>{escape(chart.description)}</desc>{body.strip()}"


def _lighter(tag: str, used: Set[str]) -> str:
    for pattern, replacement in _LIGHTER.items():
        tag = re.sub(pattern, replacement, tag)
    tag = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", tag)
    return re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
