"""A model's figures beside the baseline's, and what their difference means in plain words."""

from __future__ import annotations

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
from iqa_armor.results.figures import AttackDifferences, Differences, Interval, ModelEntry, StrengthCheck
from iqa_armor.results.outcome import Outcome

Reading = Literal["better", "worse", "not separable", "not defined"]
Standing = Literal["better", "worse", "mixed", "open"]
GAIN = "AbsGain"


@dataclass(frozen=True)
class Comparison:
    """One figure of a model beside the baseline's.

    Args:
        figure: What is compared.
        baseline: Value of the baseline, or None.
        value: Value of the model, or None.
        interval: Difference with its confidence limits.
        better: +1 where more is better, -1 where less is.
    """

    figure: str
    baseline: float | None
    value: float | None
    interval: Interval
    better: int

    @property
    def reading(self) -> Reading:
        """What the interval says; a figure is separable when its limits leave out zero."""
        if self.interval.low is None or self.interval.high is None:
            return "not defined"
        if self.interval.low <= 0 <= self.interval.high:
            return "not separable"
        return "better" if self.interval.low * self.better > 0 else "worse"

    @property
    def ratio(self) -> float | None:
        """Model ÷ baseline of a gain; None for other figures and where the baseline is not positive."""
        if not self.figure.startswith(GAIN) or self.value is None or self.baseline is None or self.baseline <= 0:
            return None
        return self.value / self.baseline


def compare(outcome: Outcome, model: ModelEntry) -> list[Comparison]:
    """Return the model beside the baseline: agreement first, then ranking under attack, gains, R-Scores.

    Figures that neither has (no opinion scores) are left out; without a baseline there are none.
    """
    base, difference = outcome.baseline_entry, model.difference_to_baseline
    if base is None or difference is None:
        return []
    attack, _ = headline(outcome)
    parts = {name: part for name in attacks_shown(outcome) if (part := _part(difference, name)) is not None}
    rows = [
        Comparison("SROCC", base.srocc, model.srocc, difference.srocc, 1),
        Comparison("PLCC", base.plcc, model.plcc, difference.plcc, 1),
    ]
    rows += [_ranking(outcome, base, model, n, part) for n, part in parts.items() if n in (attack, WORST)]
    for name, part in parts.items():
        rows += _robustness(outcome, base, model, name, part)
    return [row for row in rows if row.baseline is not None or row.value is not None]


def spoken(outcome: Outcome, model: ModelEntry) -> dict[str, Comparison]:
    """Return the comparisons a conclusion speaks of, by the words it uses for them."""
    attack, key = headline(outcome)
    rows = {row.figure: row for row in compare(outcome, model)}
    words = {
        "clean SROCC": "SROCC",
        f"SROCC under {attack} at {budget(key)}": f"SROCC, {attack} at {budget(key)}",
        f"{attack} gain": f"{GAIN}{_auc(outcome, attack)} {attack}",
    }
    return {word: rows[figure] for word, figure in words.items() if figure in rows}


def standing(outcome: Outcome, model: ModelEntry) -> Standing:
    """Return whether the figures of the conclusion speak for the model, against it, both ways or neither."""
    readings = {row.reading for row in spoken(outcome, model).values()} & {"better", "worse"}
    if len(readings) == 2:
        return "mixed"
    return "better" if "better" in readings else "worse" if "worse" in readings else "open"


def failed_checks(outcome: Outcome) -> list[tuple[ModelEntry, StrengthCheck]]:
    """Return the strength checks that failed: with one, the figures may flatter a model."""
    return [(model, check) for model in outcome.models for check in model.checks if check.status == "failed"]


def _part(difference: Differences, attack: str) -> AttackDifferences | None:
    return difference.worst_case if attack == WORST else difference.attacks.get(attack)


def _auc(outcome: Outcome, attack: str) -> str:
    return "" if has_own_budget(outcome, attack) else "AUC"


def _ranking(outcome: Outcome, base: ModelEntry, model: ModelEntry, attack: str, part: AttackDifferences) -> Comparison:
    at = shown_budget(outcome, attack)
    before, after = (figures_of(entry, attack).srocc.get(at) for entry in (base, model))
    return Comparison(f"SROCC, {attack} at {budget(at)}", before, after, part.srocc.get(at, Interval()), 1)


def _robustness(
    outcome: Outcome, base: ModelEntry, model: ModelEntry, attack: str, part: AttackDifferences
) -> list[Comparison]:
    old, new = figures_of(base, attack), figures_of(model, attack)
    gain = part.abs_gain_auc
    if gain.value is None and len(part.abs_gain) == 1:
        gain = next(iter(part.abs_gain.values()))
    less = -outcome.settings.direction  # an attack downwards makes gains negative
    name = f"{_auc(outcome, attack)} {attack}"
    return [
        Comparison(f"{GAIN}{name}", area(old, "abs_gain"), area(new, "abs_gain"), gain, less),
        Comparison(f"R-Score{name}", area(old, "r_score"), area(new, "r_score"), part.r_score_auc, 1),
    ]
