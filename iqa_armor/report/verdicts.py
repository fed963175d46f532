"""What an outcome says, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iqa_armor.report.notation import budget, short
from iqa_armor.report.reading import figures_of, headline, spoken
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

MOST_DEFENDED = 4  # defended models, each with a sentence of its own


def verdict(outcome: Outcome) -> list[str]:
    """Return the conclusions, then what a reader must know about the data."""
    return conclusions(outcome) + caveats(outcome)


def conclusions(outcome: Outcome) -> list[str]:
    """Return one sentence per compared model; of many defended ones, one per model behind the defenses."""
    defended = [model for model in outcome.compared if model.threat is not None]
    if len(defended) <= MOST_DEFENDED:
        return [conclusion(outcome, model) for model in outcome.compared]
    plain = [conclusion(outcome, model) for model in outcome.compared if model.threat is None]
    return plain + [_behind(outcome, name) for name in dict.fromkeys(model.defends for model in defended)]


def conclusion(outcome: Outcome, model: ModelEntry) -> str:
    """Return one sentence: the model against the baseline, or what the headline attack does to it."""
    return _compared(outcome, model) or _alone(outcome, model)


def caveats(outcome: Outcome) -> list[str]:
    """Return what a reader must know about the data."""
    synthetic = [entry.spec for entry in outcome.data if entry.is_synthetic]
    if not synthetic:
        return []
    return [f"Images and scores of {', '.join(synthetic)} are generated: no human opinion stands behind these figures."]


def _compared(outcome: Outcome, model: ModelEntry) -> str:
    rows = spoken(outcome, model)
    if not rows:
        return ""
    parts = [f"{what} {short(row.baseline)} → {short(row.value)} ({row.reading})" for what, row in rows.items()]
    sentence = f"{model.name} against {outcome.baseline}: {', '.join(parts)}."
    under_attack = {row.reading for what, row in rows.items() if what != "clean SROCC"}
    if under_attack == {"better", "worse"}:
        sentence += " Gain and ranking under attack disagree: no rescaling can flatter the ranking, so trust it."
    return sentence


def _alone(outcome: Outcome, model: ModelEntry) -> str:
    attack, key = headline(outcome)
    figures = model.attacks.get(attack)
    if figures is None:
        return f"{model.name}: SROCC {short(model.srocc)}, not attacked."
    raises = "raises" if outcome.settings.direction > 0 else "lowers"
    gain = figures.abs_gain.get(key)
    moved = None if gain is None else gain * outcome.settings.direction
    sentence = f"{model.name}: {attack} at {budget(key)} {raises} scores by {short(moved)} of their range"
    if model.srocc is None:
        return f"{sentence}."
    return f"{sentence} and takes SROCC from {short(model.srocc)} to {short(figures.srocc.get(key))}."


def _behind(outcome: Outcome, name: str) -> str:
    attack, key = headline(outcome)
    models = [model for model in outcome.models if model.defends == name]
    raises = "raises" if outcome.settings.direction > 0 else "lowers"
    count = len({model.defense for model in models})
    start = f"{name} behind {count} defense{'s' if count > 1 else ''}: {attack} at {budget(key)} {raises} scores"
    return f"{start} {'; '.join(_spans(outcome, models))}."


def _spans(outcome: Outcome, models: Sequence[ModelEntry]) -> Iterator[str]:
    """Yield from which defense to which the gain of the headline attack goes, for each threat."""
    attack, key = headline(outcome)
    for threat, words in (("adaptive", "where it knows the defense"), ("bare", "where it does not")):
        gains = [(figures_of(m, attack).abs_gain.get(key), m.defense) for m in models if m.threat == threat]
        found = sorted((gain * outcome.settings.direction, word) for gain, word in gains if gain is not None)
        if found:
            (low, least), (high, most) = found[0], found[-1]
            span = f"{short(low)} ({least})" + (f" to {short(high)} ({most})" if len(found) > 1 else "")
            yield f"by {span} of their range {words}"
