"""What an attack is, and the frozen state that models are attacked in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from torch import Generator, Tensor, nn

from iqa_armor.errors import UsageError

ScoreFn = Callable[[Tensor], Tensor]
Direction = Literal[1, -1]
Batches = Callable[[], Iterable[Tensor]]  # one pass over images (N, 3, H, W) in [0, 1] at every call
# What a budget limits: the largest change of a pixel value, the Euclidean length or the root mean square of an
# image's change, the largest displacement in pixels, or nothing.
Norm = Literal["linf", "l2", "rmse", "flow", "none"]


@runtime_checkable
class Attack(Protocol):
    """A frozen dataclass of hyperparameters with the budget `epsilon` and the `direction` among them.

    Values that make no sense are refused with ValueError when it is made.
    """

    @property
    def norm(self) -> Norm:
        """What the budget limits; a class variable."""

    @property
    def epsilon(self) -> float:
        """Budget in the attack's own norm, pixels being in [0, 1]; infinite where nothing is limited."""

    @property
    def direction(self) -> Direction:
        """Whether the attack raises (+1) or lowers (−1) the score, whatever that means for quality."""

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator) -> Tensor:
        """Return attacked images (N, 3, H, W) in [0, 1]; `score` maps such images to scores (N,).

        What is drawn comes from the generator, on its device. The images are left as they are.
        """


@runtime_checkable
class Fitted(Attack, Protocol):
    """An attack with something to learn from images before it is run; run without, it learns from its own images."""

    def fit(self, score: ScoreFn, batches: Batches, generator: Generator) -> Attack:
        """Return the attack that was learned; it draws nothing and knows no score function.

        Args:
            score: Maps images (N, 3, H, W) in [0, 1] to scores (N,).
            batches: Gives one pass over the images at every call; sizes may differ between batches.
            generator: Source of randomness.

        Raises:
            ValueError: If there are no images.
            ArmorError: If the score has no gradient by the pixels.
        """


def accepted(found: object, name: str) -> Attack:
    """Return what a user named as an attack.

    Raises:
        UsageError: If it is none.
    """
    norms = get_args(Norm)
    if isinstance(found, Attack) and is_dataclass(found) and not isinstance(found, type) and found.norm in norms:
        return found
    raise UsageError(
        f"{name} is no attack: it must be a frozen dataclass with a norm out of {', '.join(norms)}, an epsilon and a "
        "direction, that is called with (score, images, generator)"
    )


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
