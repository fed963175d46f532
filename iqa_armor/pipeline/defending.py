"""Put defenses around a model: purifiers, smoothers."""

from __future__ import annotations

from collections.abc import Sequence

from iqa_armor.defenses import Defended, Purified, Threat, parse_chain
from iqa_armor.models.base import QualityModel

THREATS: tuple[Threat, ...] = ("adaptive", "bare")


def defended_models(
    models: Sequence[QualityModel], purifiers: Sequence[str], *, threats: Sequence[Threat] = THREATS
) -> list[QualityModel]:
    """Return the models themselves, then each behind each defense under each threat.

    Args:
        models: Models without a defense.
        purifiers: Chains such as "jpeg:quality=60+flip"; each is a defense of its own.
        threats: What attacks differentiate.

    Raises:
        UsageError: If a purifier or a setting is unknown, or a value is not allowed.
        ModelLoadError: If a purifier's file cannot be used.
    """
    chains = [parse_chain(word) for word in purifiers]
    behind = [
        _named(Purified(model, chain, threat=threat)) for model in models for chain in chains for threat in threats
    ]
    return [*models, *behind]


def defended_model(model: QualityModel, purifiers: Sequence[str], *, threat: Threat = "adaptive") -> QualityModel:
    """Return a model behind the given purifiers, one after the other, or the model itself without any."""
    chain = {word: purifier for text in purifiers for word, purifier in parse_chain(text).items()}
    return _named(Purified(model, chain, threat=threat)) if chain else model


def _named(model: Defended) -> Defended:
    """Say in a model's name that attacks do not know its defense."""
    if model.threat == "bare":
        model.name += " (unaware attack)"
    return model
