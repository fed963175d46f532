"""What a fit does differently, step by step, to be robust by itself: the contract, and the helpers of all."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from iqa_armor.attacks.base import ScoreFn
from iqa_armor.attacks.scores import project_linf
from iqa_armor.ortho.cache import CachingModule
from iqa_armor.recipe import Training
from iqa_armor.training.losses import Loss

# In fp16 the gradient by a pixel is often too small to be told from 0; a power of two keeps its bits elsewhere.
GRADIENT_SCALE = 2.0**12


@dataclass(frozen=True)
class FitContext:
    """What is known before the first step of a fit."""

    settings: Training
    mos: Tensor  # opinion scores (N,) of the images fitted to
    spread: float  # as many opinion scores are 1 in the unit of the targets; negative where small scores are good
    loss: Loss  # what is minimised, of scores and targets (N,) each
    std: Tensor  # the network's own normalisation (3,): as much of a pixel's range is 1 in its input
    # The frozen original, from images (N, 3, H, W) in [0, 1] to scores (N,) in the unit of the targets; None where
    # there is none worth following.
    teacher: ScoreFn | None = None
    unlabelled: Callable[[int], Tensor] | None = None  # draws so many images (N, 3, H, W) without scores, if any

    @property
    def score_range(self) -> float:
        """Width of the range of the training labels, in the unit of the targets."""
        return float(self.mos.max() - self.mos.min()) / abs(self.spread)


@dataclass(frozen=True)
class Step:
    """One step of a fit."""

    model: nn.Module
    images: Tensor  # (N, 3, H, W) in [0, 1]
    targets: Tensor  # (N,), opinion scores of zero mean and unit spread, turned round where small ones are good
    done: float = 0.0  # share of the steps, in [0, 1)


class TrainingDefense:
    """A way of training; this one is plain. What it draws comes from torch's generators, which checkpoints keep."""

    @classmethod
    def of(cls, context: FitContext) -> Self:  # noqa: ARG003
        """Return the defense of one fit."""
        return cls()

    def batch(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the images and targets that are fitted instead of the step's; their number may differ."""
        return step.images, step.targets

    def penalty(self, step: Step) -> Tensor | float:  # noqa: ARG002
        """Return what is added to the loss, with gradients by the parameters; the batch norm's statistics stay."""
        return 0.0

    def moved(self, model: nn.Module, objective: Callable[[], Tensor]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return what is entered while the gradient of a step is taken; `objective` is all that is minimised, ()."""
        return nullcontext()


@dataclass(frozen=True)
class Together(TrainingDefense):
    """Several ways of training at once, each upon the batches of those before."""

    parts: tuple[TrainingDefense, ...]

    def batch(self, step: Step) -> tuple[Tensor, Tensor]:
        for part in self.parts:
            images, targets = part.batch(step)
            step = replace(step, images=images, targets=targets)
        return step.images, step.targets

    def penalty(self, step: Step) -> Tensor | float:
        return sum(part.penalty(step) for part in self.parts)

    @contextmanager
    def moved(self, model: nn.Module, objective: Callable[[], Tensor]) -> Iterator[None]:
        with ExitStack() as entered:
            for part in self.parts:
                entered.enter_context(part.moved(model, objective))
            yield


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Put all layers but orthogonal ones in eval mode, and restore it on leaving; parameters keep their gradients."""
    # Those compute the same in both modes, but in eval mode prepare for many passes with equal weights.
    modes = [(module, module.training) for module in model.modules() if not isinstance(module, CachingModule)]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def noisy(images: Tensor, epsilon: float) -> Tensor:
    """Return a random start of an attack: images (N, 3, H, W) with uniform noise, drawn from torch's own generator."""
    return (images + epsilon * (2 * torch.rand_like(images) - 1)).clamp(0, 1)


def moved_to_raise(objective: ScoreFn, images: Tensor, *, start: Tensor, epsilon: float, step: float) -> Tensor:
    """Return `start` moved by one signed gradient step of an objective (N,) or (), within ε of images and in [0, 1]."""
    start = start.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(GRADIENT_SCALE * objective(start).sum(), start)
    return project_linf(start.detach() + step * gradient.sign(), images, epsilon).clamp(0, 1)
