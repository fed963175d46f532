"""What figures mean in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from iqa_armor.results import Interval, ModelEntry, Outcome

Reading = Literal["better", "worse", "not separable", "not defined"]
HEADLINE_ATTACK, HEADLINE_EPSILON = "pgd8", "4"
GAIN = "AbsGainAUC"


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


def headline(outcome: Outcome) -> tuple[str, str]:
    """Return the attack and the budget key that one-line summaries speak of: PGD-8 at 4/255 where run."""
    attacks = list(outcome.settings.attacks)
    keys = [f"{epsilon:g}" for epsilon in outcome.settings.epsilons]
    attack = HEADLINE_ATTACK if HEADLINE_ATTACK in attacks or not attacks else attacks[-1]
    return attack, HEADLINE_EPSILON if HEADLINE_EPSILON in keys else keys[len(keys) // 2]


def compare(outcome: Outcome, model: ModelEntry) -> list[Comparison]:
    """Return the model beside the baseline: agreement first, then ranking under attack, gains, R-Scores.

    Figures that neither has (no opinion scores) are left out; without a baseline there are none.
    """
    base, difference = outcome.baseline_entry, model.difference_to_baseline
    if base is None or difference is None:
        return []
    attack, key = headline(outcome)
    rows = [_row("SROCC", base.srocc, model.srocc, difference.srocc, better=1)]
    if attack in difference.attacks:
        before, after = base.attacks[attack].srocc.get(key), model.attacks[attack].srocc.get(key)
        interval = difference.attacks[attack].srocc.get(key, Interval())
        rows.append(_row(f"SROCC, {attack} at {key}/255", before, after, interval, better=1))
    for name, part in difference.attacks.items():
        old, new = base.attacks[name], model.attacks[name]
        less = -outcome.settings.direction  # an attack downwards makes gains negative
        rows.append(_row(f"{GAIN} {name}", old.abs_gain_auc, new.abs_gain_auc, part.abs_gain_auc, better=less))
        rows.append(_row(f"R-ScoreAUC {name}", old.r_score_auc, new.r_score_auc, part.r_score_auc, better=1))
    return [row for row in rows if row.baseline is not None or row.value is not None]


def verdict(outcome: Outcome) -> list[str]:
    """Return one sentence per compared model, then what a reader must know about the data."""
    sentences = [_compared(outcome, model) or _alone(outcome, model) for model in outcome.compared]
    synthetic = [entry.spec for entry in outcome.data if entry.is_synthetic]
    if synthetic:
        sentences.append(
            f"Images and scores of {', '.join(synthetic)} are generated: no human opinion stands behind these figures."
        )
    return sentences


def short(value: float | None) -> str:
    """Return a figure as the paper prints it: three decimals, no leading zero; a dash where undefined."""
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _row(figure: str, baseline: float | None, value: float | None, interval: Interval, *, better: int) -> Comparison:
    return Comparison(figure, baseline, value, interval, _read(interval, better))


def _read(interval: Interval, better: int) -> Reading:
    if interval.low is None or interval.high is None:
        return "not defined"
    if interval.low <= 0 <= interval.high:
        return "not separable"
    return "better" if interval.low * better > 0 else "worse"


def _compared(outcome: Outcome, model: ModelEntry) -> str:
    attack, key = headline(outcome)
    rows = {row.figure: row for row in compare(outcome, model)}
    spoken = {
        "clean SROCC": rows.get("SROCC"),
        f"SROCC under {attack} at {key}/255": rows.get(f"SROCC, {attack} at {key}/255"),
        f"{attack} gain": rows.get(f"{GAIN} {attack}"),
    }
    parts = [
        f"{what} {short(row.baseline)} → {short(row.value)} ({row.reading})"
        for what, row in spoken.items()
        if row is not None
    ]
    if not parts:
        return ""
    sentence = f"{model.name} against {outcome.baseline}: {', '.join(parts)}."
    under, gain = list(spoken.values())[1:]
    if under and gain and {under.reading, gain.reading} == {"better", "worse"}:
        sentence += " Gain and ranking under attack disagree: no rescaling can flatter the ranking, so trust it."
    return sentence


def _alone(outcome: Outcome, model: ModelEntry) -> str:
    attack, key = headline(outcome)
    figures = model.attacks.get(attack)
    if figures is None:
        return f"{model.name}: SROCC {short(model.srocc)}, not attacked."
    raises = "raises" if outcome.settings.direction > 0 else "lowers"
    gain = figures.abs_gain.get(key)
    moved = None if gain is None else abs(gain)
    sentence = f"{model.name}: {attack} at {key}/255 {raises} scores by {short(moved)} of their range"
    if model.srocc is None:
        return f"{sentence}."
    return f"{sentence} and takes SROCC from {short(model.srocc)} to {short(figures.srocc.get(key))}."
