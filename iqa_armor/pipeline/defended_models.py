"""Put defenses around a model: purifiers of its images, smoothers of its scores."""

from collections.abc import Sequence

from iqa_armor.defenses.base import Defended, Threat
from iqa_armor.defenses.defended import Purified, Smoothed
from iqa_armor.defenses.purifiers.chain import read_chain
from iqa_armor.defenses.smoothing import SMOOTHERS
from iqa_armor.models.base import QualityModel

THREATS: tuple[Threat, ...] = ("adaptive", "bare")


def defended_models(
    models: Sequence[QualityModel],
    purifiers: Sequence[str] = (),
    smoothers: Sequence[str] = (),
    *,
    threats: Sequence[Threat] = THREATS,
) -> list[QualityModel]:
    """Return the models themselves, then each behind each defense under each threat.

    Every chain of purifiers, such as "jpeg:quality=60+flip", and every smoother, such as "ms:samples=100", is a defense
    of its own.

    Raises:
        UsageError: If a purifier, a smoother or a setting is unknown, or a value is not allowed.
        ModelLoadError: If a purifier's file cannot be used, or a smoother cannot smooth a model.
    """
    chains = [read_chain(word) for word in purifiers]
    parsed = [(word, SMOOTHERS.read(word)) for word in smoothers]
    behind: list[Defended] = []
    for model in models:
        for threat in threats:
            behind += [Purified(model, chain, threat=threat) for chain in chains]
            behind += [Smoothed(model, smoother, word=word, threat=threat) for word, smoother in parsed]
    return [*models, *map(_named, behind)]


def defended_model(
    model: QualityModel, purifiers: Sequence[str] = (), smoother: str | None = None, *, threat: Threat = "adaptive"
) -> QualityModel:
    """Return a model behind purifiers, one after the other, and a smoother around both; itself without any.

    Arguments and errors as in `defended_models`.
    """
    if purifiers:
        model = Purified(model, read_chain("+".join(purifiers)), threat=threat)
    if smoother is not None:
        model = Smoothed(model, SMOOTHERS.read(smoother), word=smoother, threat=threat)
    return _named(model) if isinstance(model, Defended) else model


def _named(model: Defended) -> Defended:
    """Say in a model's name that attacks do not know its defense."""
    if model.threat == "bare":
        model.name += " (unaware attack)"
    return model
