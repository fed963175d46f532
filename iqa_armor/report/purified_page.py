"""Purifiers on the page: their table, and the gain-quality plane."""

from __future__ import annotations

from collections.abc import Iterator

from iqa_armor.report.cells import Cell, Row, Table, figure_text, head_cell, minus, name_cell, value_cell
from iqa_armor.report.drawing import Chart, Label, label_right, make_room, panel, to_chart
from iqa_armor.report.looks import brief, looks
from iqa_armor.report.notation import budget, short
from iqa_armor.report.purified import (
    SIDE_BY_SIDE,
    THREATS,
    Purification,
    change,
    columns,
    definitions,
    figure_at,
    heading,
    purifications,
    ranking,
)
from iqa_armor.report.reading import headline
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

UP, DOWN = "\u00a0↑", "\u00a0↓"


def purifiers_table(outcome: Outcome) -> Table | None:
    """Return a group of rows per model and purifier, a row per threat; None without purifiers."""
    found = purifications(outcome)
    if not found:
        return None
    names = [heading(outcome, column) for column in columns(outcome)]
    attack, key = headline(outcome)
    top = (
        Cell("Purifier", scope="col", rows=2),
        Cell("Clean images", scope="colgroup", kind="group", columns=3),
        Cell("Attack", scope="col", rows=2),
        Cell(f"Quality{UP}", scope="colgroup", kind="group", columns=len(names)),
        Cell(f"Gain score{DOWN}", scope="colgroup", kind="group", columns=len(names)),
        Cell(f"SROCC{UP}", scope="colgroup", kind="group"),
    )
    words = (f"Quality{UP}", f"Gain score{DOWN}", f"SROCC{UP}", *names, *names, f"{attack}, {budget(key)}")
    groups = tuple(tuple(_rows(outcome, each)) for each in found)
    more = ["Every attack is in the table of every budget."] if len(outcome.settings.attacks) > SIDE_BY_SIDE else []
    note = " ".join((*definitions(outcome), "SROCC: without the purifier → with it.", *more))
    return Table("Images and scores behind purifiers", (top, tuple(map(head_cell, words))), groups, note)


def plane(outcome: Outcome) -> Chart | None:
    """Return the gain-quality plane: both overall, a point per purifier and threat, those of one purifier joined.

    None where no purifier was attacked.

    Source: [AP] Gushchin et al., arXiv:2404.06957.
    """
    points = {each.label: (each, drawn) for each in purifications(outcome) if (drawn := _points(outcome, each))}
    if not points:
        return None
    styles = looks(outcome)
    with panel("plane", labels=len(points)) as (figure, axes):
        axes.margins(0.15, 0.15)
        beside = []
        for label, (each, drawn) in points.items():
            look = styles[each.entry.name]
            axes.plot([x for _, x, _ in drawn], [y for _, _, y in drawn], color=look.color, linewidth=0.8)
            for model, x, y in drawn:
                mark = styles[model.name]
                axes.plot([x], [y], mark.marker, color=mark.color, markerfacecolor=mark.face, markersize=7)
            beside.append(Label(brief(label), *drawn[-1][1:], look.color))
        make_room(axes, beside)
        axes.autoscale_view()
        axes.set_xlabel("gain score (nearer 0 is more robust)")
        axes.set_ylabel("quality")
        label_right(axes, beside)
        told = "; ".join(_told(label, drawn) for label, (_, drawn) in points.items())
        return to_chart(figure, title="Quality over gain score, overall", description=f"{told}.")


_Point = tuple[ModelEntry, float, float]


def _points(outcome: Outcome, each: Purification) -> list[_Point]:
    found = ((m, figure_at(outcome, m, "gain_score"), figure_at(outcome, m, "quality")) for m in each.threats.values())
    return [(model, gain, quality) for model, gain, quality in found if gain is not None and quality is not None]


def _told(label: str, drawn: list[_Point]) -> str:
    parts = (
        f"gain score {short(gain)} and quality {short(quality)} under an {THREATS[model.threat or 'bare']} attack"
        for model, gain, quality in drawn
    )
    return f"{label}: {', '.join(parts)}"


def _rows(outcome: Outcome, each: Purification) -> Iterator[Row]:
    entry, rows = each.entry, len(each.threats)
    before = None if each.bare is None else each.bare.srocc
    clean = (figure_text(entry.clean_quality), figure_text(entry.clean_gain_score), minus(change(before, entry.srocc)))
    named = name_cell(outcome, each.threats.get("adaptive", entry), rows=rows, scope="rowgroup", text=each.label)
    for position, (threat, model) in enumerate(each.threats.items()):
        quality = [figure_at(outcome, model, "quality", column=column) for column in columns(outcome)]
        gain = [figure_at(outcome, model, "gain_score", column=column) for column in columns(outcome)]
        under = minus(change(ranking(each.bare, outcome), ranking(model, outcome)))
        first = (named, *(Cell(text, kind="n", rows=rows) for text in clean)) if position == 0 else ()
        values = (*map(figure_text, (*quality, *gain)), under)
        yield (*first, Cell(THREATS[threat], scope="row"), *map(value_cell, values))
