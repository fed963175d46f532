"""A model's figures beside the baseline's, and what their difference means in plain words."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from iqa_armor.report.attack_figures import (
    WORST,
    area,
    attacks_shown,
    figures_of,
    has_own_budget,
    headline,
    shown_budget,
)
from iqa_armor.report.formatting import budget
from iqa_armor.results.figure_registry import Figure, declared
from iqa_armor.results.figures import AttackDifferences, Differences, Interval, ModelEntry
from iqa_armor.results.outcome import Outcome

Reading = Literal["better", "worse", "not separable", "not defined"]
RANKED_AT = "1"  # budget of the attack on the ranking that is spoken of, in 1/255
Pair = tuple[ModelEntry, ModelEntry]


@dataclass(frozen=True)
class Comparison:
    """One figure of a model beside the baseline's, `better` being +1 where more is better, -1 where less is.

    `ratio` is model ÷ baseline; None for figures without, and where the baseline is not positive.
    """

    figure: str
    baseline: float | None
    value: float | None
    interval: Interval
    better: int
    ratio: float | None = None

    @property
    def reading(self) -> Reading:
        """What the interval says; a figure is separable when its limits leave out zero."""
        if self.interval.low is None or self.interval.high is None:
            return "not defined"
        if self.interval.low <= 0 <= self.interval.high:
            return "not separable"
        return "better" if self.interval.low * self.better > 0 else "worse"


def compare(outcome: Outcome, model: ModelEntry) -> list[Comparison]:
    """Return the model beside the baseline: agreement first, then ranking under attack, gains, R-Scores.

    Figures that neither has (no opinion scores) are left out; without a baseline there are none.
    """
    base, difference = outcome.baseline_entry, model.difference_to_baseline
    if base is None or difference is None:
        return []
    attack, _ = headline(outcome)
    found = difference.attacks | {WORST: difference.worst_case}
    parts = {name: part for name in attacks_shown(outcome) if (part := found.get(name)) is not None}
    rows = [
        Comparison(f.label, getattr(base, f.name), getattr(model, f.name), getattr(difference, f.name), f.better)
        for f in declared("clean")
        if f.compared
    ]
    rows += _ranked(base, model, difference)
    for name in (attack, WORST):
        rows += _at_budget(outcome, (base, model), name, parts[name]) if name in parts else ()
    for name, part in parts.items():
        rows += _areas(outcome, (base, model), name, part)
    return [row for row in rows if row.baseline is not None or row.value is not None]


def _ranked(base: ModelEntry, model: ModelEntry, difference: Differences) -> Iterator[Comparison]:
    """Yield the figures of the attack on the ranking: at 1/255 where it was run, and the mean over its budgets."""
    for figure in (each for each in declared("ranked") if each.compared):
        by_key = getattr(model, figure.name)
        if RANKED_AT in by_key:
            before, after, found = (getattr(each, figure.name).get(RANKED_AT) for each in (base, model, difference))
            name = f"{figure.label} at {budget(RANKED_AT)}"
            yield Comparison(name, before, after, found or Interval(), figure.better)
        before, after, found = (getattr(each, figure.area) for each in (base, model, difference))
        yield Comparison(f"{figure.label}, mean over ε", before, after, found, figure.better)


def _at_budget(outcome: Outcome, pair: Pair, attack: str, part: AttackDifferences) -> Iterator[Comparison]:
    """Yield the figures that are compared at single budgets only, at the one that is shown."""
    at = shown_budget(outcome, attack)
    for figure in declared("attacked"):
        if figure.compared and "area" not in figure.compared:
            before, after = (getattr(figures_of(each, attack), figure.name).get(at) for each in pair)
            found, name = getattr(part, figure.name).get(at, Interval()), f"{figure.label}, {attack} at {budget(at)}"
            yield Comparison(name, before, after, found, _better(outcome, figure))


def _areas(outcome: Outcome, pair: Pair, attack: str, part: AttackDifferences) -> Iterator[Comparison]:
    """Yield the figures that are compared over all budgets; at the one budget where there is no other."""
    auc = "" if has_own_budget(outcome, attack) else "AUC"
    for figure in declared("attacked"):
        if "area" in figure.compared:
            before, after = (area(figures_of(each, attack), figure.name, over_all=True) for each in pair)
            found, alone = getattr(part, figure.area), getattr(part, figure.name, {})
            if found.value is None and len(alone) == 1:
                found = next(iter(alone.values()))
            ratio = after / before if figure.is_gain and after is not None and before and before > 0 else None
            name = f"{figure.label}{' ' * (' ' in figure.label and auc != '')}{auc} {attack}"
            yield Comparison(name, before, after, found, _better(outcome, figure), ratio)


def _better(outcome: Outcome, figure: Figure) -> int:
    # An attack downwards makes gains negative.
    return figure.better * (outcome.settings.sign if figure.is_gain else 1)
