"""Purifiers in the terminal."""

from __future__ import annotations

from dataclasses import replace

from rich import box
from rich.table import Table
from rich.text import Text

from iqa_armor.report.notation import budget, short
from iqa_armor.report.purified import (
    THREATS,
    Measure,
    Purification,
    change,
    columns,
    figure_at,
    heading,
    purifications,
    ranking,
)
from iqa_armor.report.reading import headline
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome


def purifiers_table(outcome: Outcome, *, is_wide: bool = False) -> Table | None:
    """Return a section per model and purifier, a row per threat; None without purifiers.

    Args:
        outcome: What to show.
        is_wide: Whether attacks have room beside the mean of all, and SROCC without the purifier beside that with it.
    """
    found = purifications(outcome)
    if not found:
        return None
    shown = columns(outcome) if is_wide else columns(outcome)[-1:]
    names = "/".join(heading(outcome, column) for column in shown)
    attack, key = headline(outcome)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Purifier", overflow="fold", min_width=10)
    for words in ("Clean\nquality", "Clean\ngain", "Clean\nSROCC"):
        table.add_column(words, justify="right", no_wrap=True)
    table.add_column("Attack", no_wrap=True)
    under = f"SROCC\n{attack}, {budget(key)}" if is_wide else f"SROCC\n{attack}\n{budget(key)}"
    for text in (f"Quality\n{names}", f"Gain score\n{names}" if is_wide else f"Gain\nscore\n{names}", under):
        table.add_column(Text(text), justify="right", no_wrap=True)
    for each in found:
        _add(table, outcome, each if is_wide else replace(each, bare=None), shown)
    return table


def _add(table: Table, outcome: Outcome, each: Purification, shown: list[str]) -> None:
    entry = each.entry
    srocc = change(None if each.bare is None else each.bare.srocc, entry.srocc)
    clean = (each.label, short(entry.clean_quality), short(entry.clean_gain_score), srocc)
    for position, (threat, model) in enumerate(each.threats.items()):
        under = change(ranking(each.bare, outcome), ranking(model, outcome))
        values = (THREATS[threat], *(_joined(outcome, model, name, shown) for name in ("quality", "gain_score")), under)
        first = clean if position == 0 else ("",) * len(clean)
        table.add_row(*map(Text, (*first, *values)), end_section=position == len(each.threats) - 1)


def _joined(outcome: Outcome, model: ModelEntry, name: Measure, shown: list[str]) -> str:
    return "/".join(short(figure_at(outcome, model, name, column=column)) for column in shown)
