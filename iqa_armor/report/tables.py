"""The tables of the page as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from iqa_armor.report.cells import (
    Cell,
    Row,
    Table,
    across,
    figure_text,
    head_cell,
    minus,
    name_cell,
    value_cell,
)
from iqa_armor.report.conditions import star_note, starred
from iqa_armor.report.notation import DASH, budget, giga, milli, signed
from iqa_armor.report.reading import (
    WORST,
    Area,
    Comparison,
    area,
    attacks_shown,
    compare,
    figures_of,
    headline,
    shown_budget,
)
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

SIDE_BY_SIDE = 2  # attacks, as in the paper; more of them go below one another
UP, DOWN = "\u00a0↑", "\u00a0↓"  # with a space that does not break


@dataclass(frozen=True)
class _Column:
    group: str
    heading: str
    show: Callable[[ModelEntry], str]


def models_table(outcome: Outcome) -> Table:
    """Return one row per model in the form of the paper's tables.

    Of many attacks it has the headline's and the worst case; `attacks_table` has all.
    """
    columns = list(_columns(outcome))
    groups: dict[str, int] = {}
    for column in columns:
        groups[column.group] = groups.get(column.group, 0) + 1
    top = [Cell(group, scope="colgroup", kind="group", columns=count) for group, count in groups.items()]
    head = ((Cell("Model", scope="col", rows=2), *top), tuple(head_cell(column.heading) for column in columns))
    rows = tuple((name_cell(outcome, m), *(value_cell(column.show(m)) for column in columns)) for m in outcome.models)
    has_star = any(cell.text.endswith("*") for row in head for cell in row)
    return Table("Quality, robustness and cost", head, (rows,), star_note(outcome) if has_star else "")


def attacks_table(outcome: Outcome) -> Table | None:
    """Return the rows of every model, one per attack; None where `models_table` has room for them."""
    if len(outcome.settings.attacks) <= SIDE_BY_SIDE:
        return None
    gain, r_score, std, _ = _headings(outcome)
    under = f"SROCC, {budget(headline(outcome)[1])}{UP}"
    head = (Cell("Model", scope="col"), Cell("Attack", scope="col"), *map(head_cell, (gain, r_score, under, std)))
    return Table(
        "Every attack",
        (head,),
        tuple(tuple(_attack_rows(outcome, model)) for model in outcome.models),
        star_note(outcome),
    )


def differences_table(outcome: Outcome) -> Table | None:
    """Return a group of rows per compared model: difference, interval, ratio, reading; None without a baseline."""
    compared = [(model, rows) for model in outcome.compared if (rows := compare(outcome, model))]
    if not compared:
        return None
    percent = f"{outcome.settings.confidence * 100:g} % interval"
    words = (outcome.baseline or "", "Model", "Difference", percent, "Ratio")
    head = (Cell("Figure", scope="col"), *map(head_cell, words), Cell("Reading", scope="col"))
    groups = tuple((across(outcome, model, len(head)), *map(_difference, rows)) for model, rows in compared)
    return Table(f"Difference to {outcome.baseline}", (head,), groups)


def _columns(outcome: Outcome) -> Iterator[_Column]:
    gain, r_score, std, under = _headings(outcome)
    attack, _ = headline(outcome)
    shown = attacks_shown(outcome)
    main = [name for name in shown if name in (attack, WORST)]
    names = shown if len(outcome.settings.attacks) <= SIDE_BY_SIDE else main
    yield _Column(f"Clean{UP}", "SROCC", lambda model: figure_text(model.srocc))
    yield _Column(f"Clean{UP}", "PLCC", lambda model: figure_text(model.plcc))
    yield from (_area_column(outcome, gain, name, "abs_gain") for name in names)
    yield from (_area_column(outcome, r_score, name, "r_score") for name in names)
    yield from (_ranking_column(outcome, under, name) for name in main)
    yield from (_area_column(outcome, std, name, "abs_gain_std") for name in names if name != WORST)
    yield _Column("Cost", "Parameters", lambda model: f"{model.parameters:,}")
    yield _Column("Cost", "GFLOPs", lambda model: giga(model.flops))
    yield _Column("Cost", "ms/image", lambda model: milli(model.timing.seconds_per_image))


def _headings(outcome: Outcome) -> tuple[str, str, str, str]:
    less = DOWN if outcome.settings.direction > 0 else UP
    return f"AbsGainAUC{less}", f"R-ScoreAUC{UP}", f"Gain in std{less}", f"SROCC under attack{UP}"


def _area_column(outcome: Outcome, group: str, attack: str, name: Area) -> _Column:
    return _Column(group, starred(outcome, attack), lambda model: figure_text(area(figures_of(model, attack), name)))


def _ranking_column(outcome: Outcome, group: str, attack: str) -> _Column:
    key = shown_budget(outcome, attack)
    return _Column(
        group, f"{attack}, {budget(key)}", lambda model: figure_text(figures_of(model, attack).srocc.get(key))
    )


def _attack_rows(outcome: Outcome, model: ModelEntry) -> Iterator[Row]:
    names = attacks_shown(outcome)
    for position, name in enumerate(names):
        figures = figures_of(model, name)
        ranked = figures.srocc.get(shown_budget(outcome, name))
        first = (name_cell(outcome, model, rows=len(names), scope="rowgroup"),) if position == 0 else ()
        values = (area(figures, "abs_gain"), area(figures, "r_score"), ranked, area(figures, "abs_gain_std"))
        yield (*first, Cell(starred(outcome, name), scope="row"), *(value_cell(figure_text(value)) for value in values))


def _difference(row: Comparison) -> Row:
    low, high = row.interval.low, row.interval.high
    limits = DASH if low is None or high is None else f"[{minus(signed(low))}, {minus(signed(high))}]"
    ratio = DASH if row.ratio is None else f"× {row.ratio:.2f}"
    values = (figure_text(row.baseline), figure_text(row.value), minus(signed(row.interval.value)), limits, ratio)
    reading = Cell(row.reading, kind=row.reading.replace(" ", "-"))
    return Cell(row.figure, scope="row"), *map(value_cell, values), reading
