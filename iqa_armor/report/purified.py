"""What purifiers do to images and scores, by defense and threat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from iqa_armor.report.conditions import starred
from iqa_armor.report.looks import defense_label
from iqa_armor.report.notation import budget, short
from iqa_armor.report.reading import figures_of, headline, shown_budget
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

Threat = Literal["bare", "adaptive"]
Measure = Literal["quality", "gain_score"]
THREATS: Mapping[Threat, str] = {"bare": "unaware", "adaptive": "adaptive"}
OVERALL = "overall"
SIDE_BY_SIDE = 2  # attacks; of more of them the headline's stands beside the mean of all


@dataclass(frozen=True)
class Purification:
    """One model behind one chain of purifiers.

    Args:
        label: The defense, and the model where there are several.
        threats: The evaluated entries, unaware attacks first; at least one.
        bare: The model without a defense, or None where it was not evaluated.
    """

    label: str
    threats: Mapping[Threat, ModelEntry]
    bare: ModelEntry | None

    @property
    def entry(self) -> ModelEntry:
        """One of the entries, for what does not depend on the attack."""
        return next(iter(self.threats.values()))


def purifications(outcome: Outcome) -> list[Purification]:
    """Return every model behind every purifier, in the outcome's order."""
    found: dict[tuple[str, str], dict[Threat, ModelEntry]] = {}
    for model in outcome.models:
        if model.threat is not None and _is_purified(model):
            found.setdefault((model.defends, model.defense), {})[model.threat] = model
    bare = {model.name: model for model in outcome.models if model.threat is None}
    return [
        Purification(
            defense_label(outcome, next(iter(entries.values()))),
            {threat: entries[threat] for threat in THREATS if threat in entries},
            bare.get(defends),
        )
        for (defends, _), entries in found.items()
    ]


def columns(outcome: Outcome) -> list[str]:
    """Return the attacks whose figures stand side by side, and `OVERALL` where more than one was run."""
    attacks = list(outcome.settings.attacks)
    named = attacks if len(attacks) <= SIDE_BY_SIDE else [headline(outcome)[0]]
    return [*named, OVERALL] if len(attacks) > 1 else named


def heading(outcome: Outcome, column: str) -> str:
    """Return the name of a column, with a star for an attack at a budget of its own."""
    return column if column == OVERALL else starred(outcome, column)


def figure_at(outcome: Outcome, model: ModelEntry, name: Measure, *, column: str = OVERALL) -> float | None:
    """Return quality or gain score under an attack at its shown budget, or the mean of these over all attacks.

    The mean is not defined where one of them is not.

    Source: [AP] Gushchin et al., arXiv:2404.06957; one budget per attack and equal weights are (ours).
    """
    attacks = list(outcome.settings.attacks) if column == OVERALL else [column]
    by_budget = [getattr(figures_of(model, attack), name).get(shown_budget(outcome, attack)) for attack in attacks]
    values: list[float] = [value for value in by_budget if value is not None]
    return sum(values) / len(values) if values and len(values) == len(attacks) else None


def ranking(model: ModelEntry | None, outcome: Outcome) -> float | None:
    """Return SROCC under the headline attack."""
    attack, key = headline(outcome)
    return None if model is None else figures_of(model, attack).srocc.get(key)


def change(before: float | None, after: float | None) -> str:
    """Return a figure without and with the defense; with it only where the other is not known."""
    return short(after) if before is None else f"{short(before)} → {short(after)}"


def definitions(outcome: Outcome) -> Iterator[str]:
    """Yield what the figures of purifiers are and how to read them."""
    attacks = list(outcome.settings.attacks)
    where = _where(outcome)
    yield (
        f"Quality: (SSIM + PSNR/80)/2 of the purified image against the clean one, 1 is best. Gain score: change of "
        f"the score from that of the clean image without purifier, relative to it, 0 is best. Both are those {where}."
    )
    if len(attacks) > 1:
        yield f"Overall: mean over {', '.join(starred(outcome, name) for name in attacks)}, with equal weights."
    yield (
        "Unaware: the attack fools the model without purifier. Adaptive: it knows the purifier, goes through it and "
        f"averages a random one (draws: {outcome.settings.eot}); only this says what the purifier is worth."
    )


def _where(outcome: Outcome) -> str:
    attacks = list(outcome.settings.attacks)
    keys = {shown_budget(outcome, name) for name in attacks if starred(outcome, name) == name}
    own = [name for name in attacks if starred(outcome, name) != name]
    parts = [f"at {budget(key)}" for key in sorted(keys)] + (["at its own budget where starred"] if own else [])
    return ", ".join(parts)


def _is_purified(model: ModelEntry) -> bool:
    return model.clean_quality is not None or any(figures.quality for figures in model.attacks.values())
