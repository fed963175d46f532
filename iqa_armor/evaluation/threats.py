"""What an attacker of a model knows and differentiates."""

from iqa_armor.attacks.base import ScoreFn
from iqa_armor.attacks.scores import expectation
from iqa_armor.defenses.base import Defended
from iqa_armor.models.base import QualityModel


def followed_score(model: QualityModel, samples: int = 8) -> ScoreFn:
    """Return the score that attacks on a model follow.

    Without a defense that is the model. A defended one is attacked as its `threat` says: "bare" is the model behind all
    its defenses, and what fools it is shown to the defense unchanged; "adaptive" knows the defense, differentiates it
    (BPDA where it has no gradient) and averages `samples` draws of what is random (EOT).

    Source: Athalye et al., ICML 2018, arXiv:1802.00420, Section 4; the two threats are those of [AP] Gushchin et al.,
    arXiv:2404.06957.
    """
    model = attacked_model(model)
    if not isinstance(model, Defended):
        return model
    return expectation(model.attacked_scores, samples) if model.is_random and samples > 1 else model.attacked_scores


def attacked_model(model: QualityModel) -> QualityModel:
    """Return the model that an attacker knows: the bare one where attacks do not know the defense."""
    return undefended(model) if isinstance(model, Defended) and model.threat == "bare" else model


def undefended(model: QualityModel) -> QualityModel:
    """Return the model behind all defenses."""
    while isinstance(model, Defended):
        model = model.inner
    return model
