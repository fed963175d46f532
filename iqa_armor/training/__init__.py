"""Fitting quality models to opinion scores, and purifiers to attacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iqa_armor.errors import RecipeError
from iqa_armor.registry import Entry, Registry

if TYPE_CHECKING:
    from iqa_armor.training.defenses import MakeDefense
    from iqa_armor.training.losses import Loss


def _callable(found: Any, name: str) -> Any:
    if not callable(found):
        raise RecipeError(f"{name} is {type(found).__name__}, which cannot be called")
    return found


# Functions of scores (N,) and labels (N,) of one batch, both in standardised scores.
LOSSES: Registry[Loss] = Registry(
    "loss",
    {
        "norm-in-norm": Entry("iqa_armor.training.losses:norm_in_norm", "distance of normalised scores and labels"),
        "plcc": Entry("iqa_armor.training.losses:plcc_loss", "(1 − PLCC) / 2 over the batch"),
        "mse": Entry("iqa_armor.training.losses:mse", "mean squared error"),
        "plcc+mse": Entry("iqa_armor.training.losses:plcc_and_mse", "the sum of both"),
    },
    group="iqa_armor.losses",
    accepts=_callable,
    error=RecipeError,
)
# Functions that make a `TrainingDefense` for one fit.
DEFENSES: Registry[MakeDefense] = Registry(
    "training defense",
    {
        "none": Entry("iqa_armor.training.defenses:no_defense", "plain fitting"),
        "nt": Entry("iqa_armor.training.defenses:gradient_norm", "a penalty on the gradient by the pixels"),
        "at": Entry("iqa_armor.training.defenses:adversarial", "half of each batch attacked, its labels lowered"),
    },
    group="iqa_armor.training_defenses",
    accepts=_callable,
    error=RecipeError,
)
