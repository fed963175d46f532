"""What makes a fit robust by itself: a penalty on the input gradient, or training on attacked images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from iqa_armor.attacks.pgd import PGD
from iqa_armor.errors import DataError
from iqa_armor.metrics.fidelity import SSIM_WINDOW, ssim
from iqa_armor.ortho.cache import CachingModule
from iqa_armor.recipe import Training

# In fp16 the gradient by a pixel is often too small to be told from 0; a power of two keeps its bits elsewhere.
GRADIENT_SCALE = 2.0**12


class TrainingDefense:
    """What a fit does differently, step by step: here nothing. It draws nothing: a resumed fit is the same."""

    @classmethod
    def of(cls, settings: Training, mos: Tensor, spread: float) -> Self:  # noqa: ARG003
        """Return the defense of one fit to images with opinion scores `mos` (N,).

        `spread` opinion scores are 1 in the unit of the targets; it is negative where small scores are good.
        """
        return cls()

    def batch(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images (N, 3, H, W) in [0, 1] and targets (N,) that are fitted instead of the given ones."""
        return images, targets

    def penalty(self, model: nn.Module, images: Tensor) -> Tensor | float:  # noqa: ARG002
        """Return what is added to the loss for images (N, 3, H, W) in [0, 1]."""
        return 0.0


@dataclass(frozen=True)
class GradientNorm(TrainingDefense):
    """Penalise the L1 norm of the gradient of each score by its image ("NT").

    Source: Liu et al., "Defense Against Adversarial Attacks on No-Reference Image Quality Models with Gradient Norm
    Regularization", CVPR 2024: λ · |f(x + h · sign ∇f(x)) − f(x)| / h with h = 0.01 and λ = 1e-3, which for h → 0 is
    λ · ‖∇f(x)‖₁. Ours: scores have unit spread, since fits are in standardised scores; h is in pixels of [0, 1] and
    x + h · sign ∇f is not clipped; and the model is in eval mode for the penalty, as it is when attacked: with
    dropout drawn anew for each term their difference would be noise, divided by h.
    """

    weight: float = 1e-3  # λ
    step: float = 0.01  # h; 0 takes the gradient itself by double backward

    @classmethod
    def of(cls, settings: Training, mos: Tensor, spread: float) -> Self:  # noqa: ARG003
        """Return it as the settings say."""
        return cls(settings.nt_weight, settings.nt_step)

    def penalty(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return a scalar with gradients by the parameters; the batch norm's statistics stay."""
        return self.weight * gradient_norms(model, images, step=self.step).mean()


@dataclass(frozen=True)
class AdversarialTraining(TrainingDefense):
    """Attack half of each batch and lower its labels by what the attack did to the images ("AT").

    Source: [AT] Chistyakova et al., "Increasing the Robustness of Image Quality Assessment Models Through Adversarial
    Training", Technologies 2024: one step of PGD that raises the predicted quality, ε = 4/255; the label of an
    attacked image falls by (1 − SSIM) · score range. Ours: the attacked half is the first of the shuffled batch
    (rounded down); the attack's step is ε; the model is in eval mode while it is attacked, so that the batch norm's
    statistics come from the batch that is fitted, and from it alone.
    """

    score_range: float  # width of the range of training labels, in the unit of the targets
    direction: int = 1  # −1 where small scores mean good quality
    epsilon: float = 4 / 255  # radius and step of the attack, pixels being in [0, 1]

    @classmethod
    def of(cls, settings: Training, mos: Tensor, spread: float) -> Self:
        """Return it for the range of these labels."""
        width = float(mos.max() - mos.min()) / abs(spread)
        return cls(width, direction=1 if spread > 0 else -1, epsilon=settings.at_epsilon / 255)

    def batch(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch with its first half attacked; images too small for SSIM are a DataError."""
        if min(images.shape[-2:]) < SSIM_WINDOW:
            raise DataError(
                f"adversarial training corrects labels by SSIM, which needs at least 11×11 pixels; got images of "
                f"{images.shape[-2]}x{images.shape[-1]}; give a larger --input-size HEIGHTxWIDTH"
            )
        half = len(images) // 2
        attack = PGD(self.epsilon, self.epsilon, steps=1, direction=1 if self.direction > 0 else -1)
        with evaluating(model):
            attacked = attack(lambda x: GRADIENT_SCALE * model(x).float(), images[:half], torch.Generator())
        fall = (1 - ssim(images[:half], attacked)) * self.score_range
        lowered = targets[:half] - self.direction * fall.to(targets.dtype)
        return torch.cat([attacked, images[half:]]), torch.cat([lowered, targets[half:]])


def gradient_norms(model: nn.Module, images: Tensor, *, step: float) -> Tensor:
    """Return ‖∇f(x)‖₁ of every image's score, (N,), with gradients by the parameters; the model is in eval mode.

    It is (f(x + h · sign ∇f) − f(x)) / h with the step h; 0 takes the gradient itself by double backward.
    """
    with evaluating(model), torch.enable_grad():
        images = images.detach().requires_grad_()
        scores = model(images).float()
        scaled = GRADIENT_SCALE * scores.sum()
        (gradient,) = torch.autograd.grad(scaled, images, retain_graph=True, create_graph=step == 0)
        if step == 0:
            return gradient.abs().flatten(1).sum(1) / GRADIENT_SCALE
        moved = images.detach() + step * gradient.sign()
        change: Tensor = model(moved).float() - scores
        return change.abs() / step


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode and restore the mode of every module on leaving; parameters keep their gradients."""
    # Orthogonal layers compute the same in both modes, but in eval mode prepare for many passes with equal weights.
    modes = [(module, module.training) for module in model.modules() if not isinstance(module, CachingModule)]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
