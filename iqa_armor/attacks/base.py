"""What an attack is, and the frozen state that models are attacked in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from iqa_armor.errors import ArmorError

ScoreFn = Callable[[Tensor], Tensor]
Direction = Literal[1, -1]
Batches = Callable[[], Iterable[Tensor]]  # one pass over images (N, 3, H, W) in [0, 1] at every call
# What a budget limits: the largest change of a pixel value, the Euclidean length or the root mean square of an
# image's change, the largest displacement in pixels, or nothing.
Norm = Literal["linf", "l2", "rmse", "flow", "none"]


@runtime_checkable
class Attack(Protocol):
    """A frozen dataclass of hyperparameters with the budget `epsilon` and the `direction` among them."""

    @property
    def norm(self) -> Norm:
        """What the budget limits; a class variable."""
        ...

    @property
    def epsilon(self) -> float:
        """Budget in the attack's own norm, pixels being in [0, 1]; infinite where nothing is limited."""
        ...

    @property
    def direction(self) -> Direction:
        """Whether the attack raises (+1) or lowers (−1) the score, whatever that means for quality."""
        ...

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator) -> Tensor:
        """Return attacked images (N, 3, H, W) in [0, 1]; `score` maps such images to scores (N,)."""
        ...


@runtime_checkable
class Fitted(Attack, Protocol):
    """An attack with something to learn from images before it is run; run without, it learns from its own images."""

    def fit(self, score: ScoreFn, batches: Batches, generator: Generator) -> Attack:
        """Return the attack that was learned; it draws nothing and knows no score function."""
        ...


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode without parameter gradients, and restore its state exactly on leaving.

    Args:
        model: Changed in place: the training flag of every module, the gradient flag of every parameter.
    """
    modules = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, was_training in modules:
            module.training = was_training
        for parameter in trainable:
            parameter.requires_grad_(True)


def project_linf(images: Tensor, center: Tensor, epsilon: float) -> Tensor:
    """Return the nearest images to `images` that differ from `center` by at most epsilon per value.

    Values inside the ball keep their bits, which is what lets budgets share gradients.

    Args:
        images: Images (N, 3, H, W), any range.
        center: Images in the middle of the ball, same shape.
        epsilon: Radius of the ball, pixels being in [0, 1].
    """
    return torch.clamp(images, center - epsilon, center + epsilon)


def score_gradient(score: ScoreFn, images: Tensor) -> Tensor:
    """Return the gradient of every image's own score by its pixels, (N, 3, H, W).

    Raises:
        ArmorError: If the score does not depend on the pixels by differentiable steps.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        scores = score(images)
        gradient: Tensor | None = None
        if scores.requires_grad:
            (gradient,) = torch.autograd.grad(scores.sum(), images, allow_unused=True)
    if gradient is None:
        raise ArmorError(
            "the score has no gradient by the pixels, so a gradient attack cannot run; "
            "remove whatever detaches it from its input"
        )
    return gradient
