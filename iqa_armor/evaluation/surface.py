"""What an attacker of a model differentiates."""

from __future__ import annotations

from iqa_armor.attacks.base import ScoreFn
from iqa_armor.attacks.expectation import expectation
from iqa_armor.defenses.base import Defended
from iqa_armor.models.base import QualityModel

EOT_SAMPLES = 8


def surface_of(model: QualityModel, samples: int = EOT_SAMPLES) -> ScoreFn:
    """Return the score that attacks on a model follow.

    Without a defense that is the model. A defended one is attacked as its `threat` says: "bare" is the model behind all
    its defenses, and what fools it is shown to the defense unchanged; "adaptive" knows the defense, differentiates it
    (BPDA where it has no gradient) and averages what is random (EOT).

    Args:
        model: On its device already.
        samples: Draws that an adaptive attacker averages, at least 1; of no use where nothing is random.

    Source: Athalye et al., ICML 2018, arXiv:1802.00420, Section 4; the two threats are those of [AP] Gushchin et al.,
    arXiv:2404.06957.
    """
    if not isinstance(model, Defended):
        return model
    if model.threat == "bare":
        return bare(model)
    if model.is_random and samples > 1:
        return expectation(model.attacked_scores, samples)
    return model.attacked_scores


def bare(model: QualityModel) -> QualityModel:
    """Return the model behind all defenses."""
    while isinstance(model, Defended):
        model = model.inner
    return model
