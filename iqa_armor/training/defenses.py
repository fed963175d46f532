"""What a fit does differently, step by step, to be robust by itself: the contract, helpers, and flat scores."""

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
    # The frozen original, images (N, 3, H, W) in [0, 1] to scores (N,) in the targets' unit, if it is worth following.
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


@dataclass(frozen=True)
class GradientNorm(TrainingDefense):
    """Penalise the squared difference quotient of every score along the sign of its gradient.

    λ / 2 · mean(((f(x + h · sign ∇f(x)) − f(x)) / h)²), f in opinion scores of 0–100, h a step of the normalised image.

    Source: Liu et al., "Defense Against Adversarial Attacks on No-Reference Image Quality Models with Gradient Norm
    Regularization", CVPR 2024, λ = 1e-3 and h = 0.01; the paper writes |·| where its authors compute the square, which
    is taken here. Ours: the range of the training labels counts as 0–100; x + h · sign ∇f is not clipped; and the model
    is in eval mode, as when attacked: with dropout drawn for each term their difference would be noise, divided by h.
    """

    weight: float = 1e-3  # λ
    step: float = 0.01  # h
    unit: float = 1.0  # as many of 100 parts of the label range are 1 in the unit of the targets
    std: tuple[float, ...] = (1.0, 1.0, 1.0)  # of the network's normalisation

    @classmethod
    def of(cls, context: FitContext) -> Self:
        unit = 100 / context.score_range
        return cls(context.settings.nt_weight, context.settings.nt_step, unit, tuple(context.std.flatten().tolist()))

    def penalty(self, step: Step) -> Tensor:
        std = step.images.new_tensor(self.std).view(-1, 1, 1)
        quotients = gradient_norms(step.model, step.images, step=self.step, unit=std)
        return self.weight / 2 * (self.unit * quotients).square().mean()


@dataclass(frozen=True)
class ScaleFreeGradientNorm(TrainingDefense):
    """Penalise ‖∇f(x)‖₁ in units of the batch's spread of scores: shrinking all scores does not help (ours).

    The weight grows linearly to its whole over the first 40 % of the steps; a step of 0 takes the gradient itself, by
    double backward, else it is the difference quotient along its sign, h being in pixels of [0, 1].
    """

    weight: float = 1e-3
    step: float = 0.01

    @classmethod
    def of(cls, context: FitContext) -> Self:
        return cls(context.settings.nt_weight, context.settings.nt_step)

    def penalty(self, step: Step) -> Tensor:
        with frozen_statistics(step.model):
            scores = step.model(step.images).float()
        mean = gradient_norms(step.model, step.images, step=self.step).mean()
        return self.weight * min(1.0, step.done / 0.4) * torch.div(mean, scores.std().clamp_min(1e-6))


def gradient_norms(model: nn.Module, images: Tensor, *, step: float, unit: Tensor | float = 1.0) -> Tensor:
    """Return ‖∇f(x)‖₁ of every image's score, (N,), with gradients by the parameters; the model is in eval mode.

    It is |f(x + h · sign ∇f(x)) − f(x)| / h with the step h; 0 takes the gradient itself by double backward. Pixels are
    in units that broadcast to (N, 3, H, W), 1 being their whole range.
    """
    with frozen_statistics(model), torch.enable_grad():
        images = images.detach().requires_grad_()
        scores = model(images).float()
        scaled, is_exact = GRADIENT_SCALE * scores.sum(), step == 0
        (gradient,) = torch.autograd.grad(scaled, images, retain_graph=True, create_graph=is_exact)
        if is_exact:
            return (unit * gradient.abs()).flatten(1).sum(1) / GRADIENT_SCALE
        change: Tensor = model(images.detach() + images.new_tensor(step) * unit * gradient.sign()).float() - scores
        return change.abs() / step


@dataclass(frozen=True)
class WeightPerturbation(TrainingDefense):
    """Take the gradient of each step where the weights were moved up it first, so that flat minima are found.

    Every kernel and matrix w moves by γ · ‖w‖ · g / ‖g‖, g being its gradient of all that is minimised.

    Source: Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020, arXiv:2004.05884:
    one step, layer by layer, γ = 0.005. Ours: penalties attack images anew at the moved weights, and g is taken in eval
    mode. Alone it perturbs clean fitting, beside another defense, such as teacher+awp, that.
    """

    size: float = 0.005  # γ

    @classmethod
    def of(cls, context: FitContext) -> Self:
        return cls(context.settings.awp_size)

    @contextmanager
    def moved(self, model: nn.Module, objective: Callable[[], Tensor]) -> Iterator[None]:
        """Give the model the moved weights while the block runs, and its own, to the bit, afterwards."""
        weights = [each for each in model.parameters() if each.requires_grad and each.ndim >= 2]
        with frozen_statistics(model):
            gradients = torch.autograd.grad(GRADIENT_SCALE * objective(), weights, allow_unused=True)
        own = [each.detach().clone() for each in weights]
        try:
            with torch.no_grad():
                for weight, slope in zip(weights, gradients, strict=True):
                    if slope is not None and (length := slope.norm()) > 0:
                        weight.add_(self.size * weight.norm() / length * slope)
            yield
        finally:
            with torch.no_grad():
                for weight, before in zip(weights, own, strict=True):
                    weight.copy_(before)
