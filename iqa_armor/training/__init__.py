"""Fitting quality models to opinion scores, and purifiers to attacks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from iqa_armor.errors import RecipeError
from iqa_armor.registry import Entry, Registry

if TYPE_CHECKING:
    from iqa_armor.training.defenses import TrainingDefense
    from iqa_armor.training.losses import Loss


def _loss(found: Any, name: str) -> Loss:
    if callable(found):
        return found  # type: ignore[no-any-return]
    raise RecipeError(f"{name} is no loss: it must be a function of scores (N,) and labels (N,)")


def _defense(found: Any, name: str) -> type[TrainingDefense]:
    if callable(getattr(found, "of", None)):
        return found  # type: ignore[no-any-return]
    raise RecipeError(f"{name} is no training defense: it must be a child of iqa_armor.training.TrainingDefense")


def _together(name: str) -> Any:
    words = name.split("+")
    if len(words) == 1 or not all(word in DEFENSES for word in words):
        return None
    from iqa_armor.training.defenses import Together

    return SimpleNamespace(of=lambda context: Together(tuple(DEFENSES[word].of(context) for word in words)))


_HOME = "iqa_armor.training"
_DEFENSES, _ATTACKED = f"{_HOME}.defenses", f"{_HOME}.adversarial"
# Functions of scores (N,) and labels (N,) of one batch, both in standardised scores.
LOSSES: Registry[Loss] = Registry(
    "loss",
    {
        "norm-in-norm": Entry(f"{_HOME}.losses:norm_in_norm", "distance of normalised scores and labels"),
        "plcc": Entry(f"{_HOME}.losses:plcc_loss", "(1 − PLCC) / 2 over the batch"),
        "mse": Entry("torch.nn.functional:mse_loss", "mean squared error"),
        "plcc+mse": Entry(f"{_HOME}.losses:plcc_and_mse", "the sum of both"),
    },
    group="iqa_armor.losses",
    accepts=_loss,
    error=RecipeError,
)
DEFENSES: Registry[type[TrainingDefense]] = Registry(
    "training defense",
    {
        "none": Entry(f"{_DEFENSES}:TrainingDefense", "plain fitting"),
        "nt": Entry(f"{_DEFENSES}:GradientNorm", "a penalty on the gradient by the pixels"),
        "nt-scaled": Entry(f"{_DEFENSES}:ScaleFreeGradientNorm", "that penalty over the spread of scores, ramped"),
        "at": Entry(f"{_ATTACKED}:AdversarialTraining", "each batch beside itself attacked, labels lowered"),
        "teacher": Entry(f"{_ATTACKED}:TeacherConsistency", "attacked images keep the scores of the original"),
        "hinge": Entry(f"{_ATTACKED}:AnchoredRanking", "attacked images keep their place among clean ones"),
        "awp": Entry(f"{_DEFENSES}:WeightPerturbation", "gradients are taken at weights moved up them"),
    },
    group="iqa_armor.training_defenses",
    accepts=_defense,
    pattern=_together,
    also="several joined by +, such as teacher+awp",
    error=RecipeError,
)
__getattr__ = DEFENSES.lazy_attribute
