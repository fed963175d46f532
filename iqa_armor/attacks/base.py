"""What an attack is, and the frozen state that models are attacked in."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import ClassVar, Literal, Protocol, get_args, runtime_checkable

from torch import Generator, Tensor, nn

from iqa_armor.errors import UsageError
from iqa_armor.graph.trace import evaluating
from iqa_armor.limits import Limited
from iqa_armor.randomness import drawn_from

ScoreFn = Callable[[Tensor], Tensor]
Direction = Literal[1, -1]
Batches = Callable[[], Iterable[Tensor]]  # one pass over images (N, 3, H, W) in [0, 1] at every call
# What a budget limits: the largest change of a pixel value, the Euclidean length or the root mean square of an
# image's change, the largest displacement in pixels, or nothing.
Norm = Literal["linf", "l2", "rmse", "flow", "none"]


@runtime_checkable
class Attack(Protocol):
    """A frozen dataclass of hyperparameters that refuses values that make no sense with ValueError when it is made."""

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

        The images stay as they are. What is drawn comes from the generator; built-in attacks have one of seed 0.
        """


@runtime_checkable
class Fitted(Attack, Protocol):
    """An attack with something to learn from images before it is run; run without, it learns from its own images."""

    def fit(self, score: ScoreFn, batches: Batches, generator: Generator) -> Attack:
        """Return the attack that was learned, from batches that may differ in size; it draws nothing, asks no score.

        Without images it is a ValueError, without a gradient of the score by the pixels an ArmorError.
        """


class LinfAttack(Limited):
    """An attack whose budget limits the change of a pixel value."""

    norm: ClassVar[Norm] = "linf"


class FittedLinf(LinfAttack):
    """A `Fitted` attack that, run without fitting, learns from the images it is given, which then sway one another."""

    fit: Callable[[ScoreFn, Batches, Generator], Attack]

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:
        generator = drawn_from(generator, images)
        return self.fit(score, lambda: (images,), generator)(score, images, generator)


@runtime_checkable
class Borrowing(Attack, Protocol):
    """An attack that tries what moves other models, too."""

    @property
    def sources(self) -> tuple[ScoreFn, ...]:
        """Scores of these models; a field, which no word sets."""


def accepted(found: object, name: str) -> Attack:
    norms = get_args(Norm)
    if isinstance(found, Attack) and is_dataclass(found) and not isinstance(found, type) and found.norm in norms:
        return found
    wanted = f"a frozen dataclass with a norm out of {', '.join(norms)}, an epsilon and a direction"
    raise UsageError(f"{name} is no attack: it must be {wanted}, that is called with (score, images, generator)")


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode without parameter gradients, in place, and restore every flag exactly on leaving."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with evaluating(model):
            model.requires_grad_(False)
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
