"""A certification as one self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from iqa_armor.report.cells import Cell, Row, Table, head_cell, minus, value_cell
from iqa_armor.report.certificates import IMAGE_HEADINGS, data_words, headings, image_cells, lines, notes
from iqa_armor.report.drawing import Chart, Label, label_right, make_room, panel, to_chart
from iqa_armor.report.looks import brief, looks_of
from iqa_armor.report.notation import plain, short
from iqa_armor.report.templates import inside_script, source, template
from iqa_armor.results.certification import Certification, CertifiedModel, MethodFigures

LARGEST_RATIO = 20.0  # of values on a linear axis
MOST_ROWS = 200  # of a table of images
Figure = Callable[[MethodFigures], float | None]


def render_certification(found: Certification) -> str:
    """Return a certification as the text of one HTML file that needs no other file and no network.

    Its JSON stands in the element with the id `certification`.
    """
    return template("certification.html").render(
        style=source("page.css"),
        title=f"Certified scores of {', '.join(model.name for model in found.models)}",
        found=found,
        data=data_words(found),
        notes=list(notes(found)),
        summary=summary_table(found),
        charts=[chart for chart in (delta_chart(found), srocc_chart(found)) if chart is not None],
        images=[_images(model, word) for model in found.models for word in model.methods],
        json=inside_script(found.to_json(indent=None)),
    )


def summary_table(found: Certification) -> Table:
    """Return a row per model and method, in a group per model."""
    first = [Cell(text, scope="col") for text in ("Method", "Guarantee")]
    head = ((*first, *(head_cell(heading.replace("-\n", "").replace("\n", " ")) for heading in headings(found))),)
    return Table("Bounds, agreement with opinion, and cost", head, tuple(_group(found, m.name) for m in found.models))


def delta_chart(found: Certification) -> Chart | None:
    """Return the certified delta of every method, a point per model; None where all abstain.

    Deltas are in score ranges where every model's is known, else in model units.
    """
    has_ranges = all(model.scale is not None for model in found.models)
    axis = "certified delta, in score ranges" if has_ranges else "certified delta, in model units"

    def figure(figures: MethodFigures) -> float | None:
        return figures.delta_share if has_ranges else figures.delta

    return _chart(found, figure, name="delta", axis=axis)


def srocc_chart(found: Certification) -> Chart | None:
    """Return the SROCC of the smoothed score of every method; None without opinion scores."""
    return _chart(found, lambda figures: figures.srocc, name="srocc", axis="SROCC of the smoothed score")


def _chart(found: Certification, figure: Figure, *, name: Literal["delta", "srocc"], axis: str) -> Chart | None:
    words = list(dict.fromkeys(word for model in found.models for word in model.methods))
    points = {
        model.name: [(words.index(w), value) for w, m in model.methods.items() if (value := figure(m)) is not None]
        for model in found.models
    }
    styles = looks_of([model.name for model in found.models], found.baseline)
    if not any(points.values()):
        return None
    with panel(f"certified {name}") as (canvas, axes):
        labels = [Label(brief(model), *drawn[-1], styles[model].color) for model, drawn in points.items() if drawn]
        make_room(axes, labels)
        for model, drawn in points.items():
            look = styles[model]
            across, up = [place for place, _ in drawn], [value for _, value in drawn]
            axes.plot(across, up, linestyle="none", marker=look.marker, color=look.color, markersize=7)
        if name == "srocc":
            for entry in found.models:  # the plain score's, to compare with
                if entry.srocc is not None:
                    axes.axhline(entry.srocc, color=styles[entry.name].color, linewidth=0.9, linestyle="--")
        elif _spans_decades(points):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xticks(range(len(words)), [re.sub("([:,])", r"\1\n", word) for word in words], fontsize=8.5)
        axes.set_xlim(-0.5, len(words) - 0.5)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(axis)
        label_right(axes, labels)
        title = f"{axis[0].upper()}{axis[1:]}" + ("; dashed: of the plain score" if name == "srocc" else "")
        return to_chart(canvas, title=title, description=_told(words, points))


def _spans_decades(points: dict[str, list[tuple[int, float]]]) -> bool:
    """Return whether the smallest values could not be told from zero beside the largest."""
    values = [value for drawn in points.values() for _, value in drawn]
    return 0 < LARGEST_RATIO * min(values) < max(values)


def _told(words: list[str], points: dict[str, list[tuple[int, float]]]) -> str:
    parts = (
        f"{model}: {', '.join(f'{words[place]} {short(value)}' for place, value in drawn) or 'none'}"
        for model, drawn in points.items()
    )
    return f"{'; '.join(parts)}."


def _group(found: Certification, name: str) -> tuple[Row, ...]:
    look = looks_of([model.name for model in found.models], found.baseline)[name]
    rows = [line for line in lines(found) if line.model == name]
    shown = f"{name} (baseline)" if name == found.baseline else name
    columns = 2 + len(headings(found))
    top = Cell(shown, "model", "rowgroup", columns=columns, symbol=look.symbol, color=look.color)
    return (
        (top,),
        *(
            (Cell(row.method, scope="row"), Cell(row.guarantee), *(value_cell(minus(text)) for text in row.cells))
            for row in rows
        ),
    )


def _images(model: CertifiedModel, word: str) -> Table:
    images = model.methods[word].images
    head = ((Cell("Image", scope="col"), *map(head_cell, IMAGE_HEADINGS)),)
    rows = tuple(
        (Cell(image.name, scope="row"), *(value_cell(minus(text)) for text in image_cells(image)))
        for image in images[:MOST_ROWS]
    )
    hidden = len(images) - len(rows)
    note = f"{plain(hidden)} more are in the JSON of this page." if hidden else ""
    return Table(f"{model.name}, {word}", head, (rows,), note)
