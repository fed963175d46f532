"""What an attacker of a model knows and differentiates, and the budgets that attacked images are held to."""

from torch import Tensor

from iqa_armor.attacks.base import Attack, ScoreFn
from iqa_armor.attacks.scores import expectation
from iqa_armor.defenses.base import Defended
from iqa_armor.errors import ArmorError
from iqa_armor.metrics.fidelity import l2, linf
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


BUDGET_TOLERANCE = 1e-6  # rounding of float32 pixels
LENGTH_TOLERANCE = 1e-4  # relative, rounding of float32 sums


def check_budget(name: str, attack: Attack, *, clean: Tensor, attacked: Tensor) -> None:
    """Refuse attacked images of another size, outside their attack's budget or outside [0, 1].

    A displacement ("flow") cannot be read off images and is not checked.
    Raises ArmorError naming the attack and by how much it went too far.
    """
    if attacked.shape != clean.shape:
        raise ArmorError(
            f"attack {name} changed the size of images from {tuple(clean.shape)} to {tuple(attacked.shape)}"
        )
    _check_distance(name, attack, clean, attacked)
    low, high = float(attacked.min()), float(attacked.max())
    if not (low >= -BUDGET_TOLERANCE and high <= 1 + BUDGET_TOLERANCE):
        raise ArmorError(f"attack {name} left the pixel range [0, 1]: [{low:.4g}, {high:.4g}]")


def _check_distance(name: str, attack: Attack, clean: Tensor, attacked: Tensor) -> None:
    if attack.norm in ("flow", "none"):
        return
    distance = linf if attack.norm == "linf" else l2
    farthest = float(distance(clean, attacked).max()) / (clean[0].numel() ** 0.5 if attack.norm == "rmse" else 1)
    tolerance = BUDGET_TOLERANCE if attack.norm == "linf" else LENGTH_TOLERANCE * attack.epsilon
    if farthest <= attack.epsilon + tolerance:
        return
    if attack.norm == "l2":
        raise ArmorError(f"attack {name} changed an image by {farthest:.4g} (L2), more than its {attack.epsilon:g}")
    what = "moved a pixel by" if attack.norm == "linf" else "changed an image by an RMSE of"
    raise ArmorError(
        f"attack {name} {what} {farthest * 255:.4g}/255, more than its budget of {attack.epsilon * 255:g}/255"
    )
