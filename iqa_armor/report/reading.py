"""What figures mean in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from iqa_armor.report.notation import budget
from iqa_armor.results.figures import (
    AttackDifferences,
    AttackFigures,
    Differences,
    Figures,
    Interval,
    ModelEntry,
    StrengthCheck,
    epsilon_key,
)
from iqa_armor.results.outcome import Outcome

Reading = Literal["better", "worse", "not separable", "not defined"]
Standing = Literal["better", "worse", "mixed", "open"]
Area = Literal["abs_gain", "abs_gain_std", "r_score"]
HEADLINE_ATTACK, HEADLINE_EPSILON = "pgd8", "4"
GAIN = "AbsGain"
WORST = "worst case"


@dataclass(frozen=True)
class Comparison:
    """One figure of a model beside the baseline's.

    Args:
        figure: What is compared.
        baseline: Value of the baseline, or None.
        value: Value of the model, or None.
        interval: Difference with its confidence limits.
        reading: What the interval says; a figure is separable when its limits leave out zero.
    """

    figure: str
    baseline: float | None
    value: float | None
    interval: Interval
    reading: Reading

    @property
    def ratio(self) -> float | None:
        """Model ÷ baseline of a gain; None for other figures and where the baseline is not positive."""
        if not self.figure.startswith(GAIN) or self.value is None or self.baseline is None or self.baseline <= 0:
            return None
        return self.value / self.baseline


def headline(outcome: Outcome) -> tuple[str, str]:
    """Return the attack and the budget key that one-line summaries speak of: PGD-8 at 4/255 where run.

    Else it is the last attack that shares the evaluation's budgets, else the last one at its own.
    """
    attacks = list(outcome.settings.attacks)
    shared = [name for name in attacks if not has_own_budget(outcome, name)]
    attack = HEADLINE_ATTACK if HEADLINE_ATTACK in attacks or not attacks else (shared or attacks)[-1]
    return attack, shown_budget(outcome, attack)


def shown_budget(outcome: Outcome, attack: str) -> str:
    """Return the key of the one budget of an attack that is shown: 4/255 where run, else its middle one."""
    keys = budgets(outcome, attack)
    return HEADLINE_EPSILON if HEADLINE_EPSILON in keys or not keys else keys[len(keys) // 2]


def budgets(outcome: Outcome, attack: str) -> list[str]:
    """Return the keys of the budgets that an attack was run at, or `WORST` was found at."""
    runs = (figures_of(model, attack).abs_gain for model in outcome.models)
    return next((list(run) for run in runs if run), _shared_budgets(outcome))


def has_own_budget(outcome: Outcome, attack: str) -> bool:
    """Return whether an attack was run at one budget of its own instead of the evaluation's."""
    keys = budgets(outcome, attack)
    return len(keys) == 1 and keys != _shared_budgets(outcome)


def figures_of(figures: Figures, attack: str) -> AttackFigures:
    """Return the figures of an attack, or of `WORST`; blank ones where it was not run."""
    if attack == WORST:
        return figures.worst_case or AttackFigures()
    return figures.attacks.get(attack, AttackFigures())


def area(figures: AttackFigures, name: Area) -> float | None:
    """Return the mean of a figure over budgets; where there is one budget only, the figure there."""
    found: float | None = getattr(figures, f"{name}_auc")
    values: list[float | None] = list(getattr(figures, name).values())
    return values[0] if found is None and len(values) == 1 else found


def attacks_shown(outcome: Outcome) -> list[str]:
    """Return the attacks, and behind them `WORST` where any model has it."""
    worst = [WORST] if any(model.worst_case is not None for model in outcome.models) else []
    return [*outcome.settings.attacks, *worst]


def compare(outcome: Outcome, model: ModelEntry) -> list[Comparison]:
    """Return the model beside the baseline: agreement first, then ranking under attack, gains, R-Scores.

    Figures that neither has (no opinion scores) are left out; without a baseline there are none.
    """
    base, difference = outcome.baseline_entry, model.difference_to_baseline
    if base is None or difference is None:
        return []
    attack, _ = headline(outcome)
    rows = [
        _row("SROCC", base.srocc, model.srocc, difference.srocc, better=1),
        _row("PLCC", base.plcc, model.plcc, difference.plcc, better=1),
    ]
    names = [name for name in attacks_shown(outcome) if _part(difference, name) is not None]
    rows += [_ranking(outcome, base, model, name) for name in names if name in (attack, WORST)]
    for name in names:
        rows += _robustness(outcome, base, model, name)
    return [row for row in rows if row.baseline is not None or row.value is not None]


def standing(outcome: Outcome, model: ModelEntry) -> Standing:
    """Return whether the figures of the conclusion speak for the model, against it, both ways or neither."""
    readings = {row.reading for row in spoken(outcome, model).values()} & {"better", "worse"}
    if len(readings) == 2:
        return "mixed"
    return "better" if "better" in readings else "worse" if "worse" in readings else "open"


def failed_checks(outcome: Outcome) -> list[tuple[ModelEntry, StrengthCheck]]:
    """Return the strength checks that failed: with one, the figures may flatter a model."""
    return [(model, check) for model in outcome.models for check in model.checks if check.status == "failed"]


def _shared_budgets(outcome: Outcome) -> list[str]:
    return [epsilon_key(epsilon / 255) for epsilon in outcome.settings.epsilons]


def _part(difference: Differences, attack: str) -> AttackDifferences | None:
    return difference.worst_case if attack == WORST else difference.attacks.get(attack)


def _gain_label(outcome: Outcome, attack: str) -> str:
    return f"{GAIN}{'' if has_own_budget(outcome, attack) else 'AUC'} {attack}"


def _ranking(outcome: Outcome, base: ModelEntry, model: ModelEntry, attack: str) -> Comparison:
    at = shown_budget(outcome, attack)
    part = model.difference_to_baseline and _part(model.difference_to_baseline, attack)
    interval = part.srocc.get(at, Interval()) if part else Interval()
    before, after = figures_of(base, attack).srocc.get(at), figures_of(model, attack).srocc.get(at)
    return _row(f"SROCC, {attack} at {budget(at)}", before, after, interval, better=1)


def _robustness(outcome: Outcome, base: ModelEntry, model: ModelEntry, attack: str) -> list[Comparison]:
    part = model.difference_to_baseline and _part(model.difference_to_baseline, attack)
    old, new = figures_of(base, attack), figures_of(model, attack)
    gain, r_score = (part.abs_gain_auc, part.r_score_auc) if part else (Interval(), Interval())
    if part and gain.value is None and len(part.abs_gain) == 1:
        gain = next(iter(part.abs_gain.values()))
    less = -outcome.settings.direction  # an attack downwards makes gains negative
    auc = "" if has_own_budget(outcome, attack) else "AUC"
    return [
        _row(_gain_label(outcome, attack), area(old, "abs_gain"), area(new, "abs_gain"), gain, better=less),
        _row(f"R-Score{auc} {attack}", area(old, "r_score"), area(new, "r_score"), r_score, better=1),
    ]


def _row(figure: str, baseline: float | None, value: float | None, interval: Interval, *, better: int) -> Comparison:
    return Comparison(figure, baseline, value, interval, _read(interval, better))


def _read(interval: Interval, better: int) -> Reading:
    if interval.low is None or interval.high is None:
        return "not defined"
    if interval.low <= 0 <= interval.high:
        return "not separable"
    return "better" if interval.low * better > 0 else "worse"


def spoken(outcome: Outcome, model: ModelEntry) -> dict[str, Comparison]:
    """Return the comparisons a conclusion speaks of, by the words it uses for them."""
    attack, key = headline(outcome)
    rows = {row.figure: row for row in compare(outcome, model)}
    words = {
        "clean SROCC": "SROCC",
        f"SROCC under {attack} at {budget(key)}": f"SROCC, {attack} at {budget(key)}",
        f"{attack} gain": _gain_label(outcome, attack),
    }
    return {word: rows[figure] for word, figure in words.items() if figure in rows}
