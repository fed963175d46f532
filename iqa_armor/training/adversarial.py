"""Training on attacked images: with lowered labels ("AT"), and towards the scores of a frozen teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from iqa_armor.attacks.base import ScoreFn, frozen
from iqa_armor.errors import DataError
from iqa_armor.metrics.fidelity import SSIM_WINDOW, ssim
from iqa_armor.training.defenses import FitContext, Step, TrainingDefense, frozen_statistics, moved_to_raise, noisy
from iqa_armor.training.losses import Loss

RAMP, FIRST = 0.4, 0.1  # share of the steps over which a teacher's budget grows, and share of it that it begins with


@dataclass(frozen=True)
class AdversarialTraining(TrainingDefense):
    """Fit each batch together with itself attacked, whose labels fall by what the attack did to the images.

    Source: [AT] Chistyakova et al., "Increasing the Robustness of Image Quality Assessment Models Through Adversarial
    Training", Technologies 2024, and its authors' code: 2N images; one step of α = 5/255 within ε = 4/255 up the
    gradient of the training loss, so that scores are moved either way; the label of an attacked image falls by
    (1 − SSIM) · score range and stays within that range. Ours: no random start; the model is in eval mode while it is
    attacked, so that the batch norm's statistics come from the batch that is fitted, and from it alone.
    """

    loss: Loss
    labels: tuple[float, float]  # lowest and highest target
    direction: int = 1  # −1 where small scores mean good quality
    epsilon: float = 4 / 255  # radius of the attack, pixels being in [0, 1]
    step: float = 5 / 255

    @classmethod
    def of(cls, context: FitContext) -> Self:
        targets = (context.mos - context.mos.mean()) / context.spread
        epsilon, direction = context.settings.at_epsilon / 255, 1 if context.spread > 0 else -1
        return cls(context.loss, (float(targets.min()), float(targets.max())), direction, epsilon, 1.25 * epsilon)

    def batch(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return attacked and clean images, 2N; images too small for SSIM are a DataError."""
        images, targets = step.images, step.targets
        if min(images.shape[-2:]) < SSIM_WINDOW:
            why = "adversarial training corrects labels by SSIM, which needs at least 11×11 pixels"
            size = f"{images.shape[-2]}x{images.shape[-1]}"
            raise DataError(f"{why}; got images of {size}; give a larger --input-size HEIGHTxWIDTH")

        def objective(x: Tensor) -> Tensor:
            return self.loss(step.model(x).float(), targets)

        with frozen(step.model):
            attacked = moved_to_raise(objective, images, start=images, epsilon=self.epsilon, step=self.step)
        fall = self.direction * (1 - ssim(images, attacked)) * (self.labels[1] - self.labels[0])
        lowered = (targets - fall.to(targets.dtype)).clamp(*self.labels)
        return torch.cat([attacked, images]), torch.cat([lowered, targets])


@dataclass(frozen=True)
class TeacherConsistency(TrainingDefense):
    """Keep the scores of attacked images at those that the frozen original gives the clean ones (ours).

    β · mean((f(x′) − f₀(x))²) over clean and attacked images, x′ being a random start in the L-infinity ball and signed
    steps of 1.25 ε / steps up that distance, in eval mode. ε grows from a tenth to the whole over the first 40 % of the
    steps. It needs no labels, so images without any are taken in; without a teacher labels take its place.

    Source: after Schlarmann et al., "Robust CLIP" (FARE), ICML 2024, arXiv:2402.12336, Eq. 3, where features are kept,
    and Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy" (TRADES), ICML 2019.
    """

    teacher: ScoreFn | None
    weight: float = 1.0  # β
    epsilon: float = 4 / 255
    steps: int = 2
    unlabelled: Callable[[int], Tensor] | None = None

    @classmethod
    def of(cls, context: FitContext) -> Self:
        asked = context.settings
        strength = asked.teacher_weight, asked.teacher_epsilon / 255, asked.teacher_steps
        return cls(context.teacher, *strength, context.unlabelled)

    def penalty(self, step: Step) -> Tensor:
        images, kept = step.images, step.targets
        if self.teacher is not None:
            if self.unlabelled is not None:
                images = torch.cat([images, self.unlabelled(len(images)).to(images)])
            with torch.no_grad():
                kept = self.teacher(images).float()
        epsilon = self.epsilon * min(1.0, FIRST + (1 - FIRST) * step.done / RAMP)

        def distances(x: Tensor) -> Tensor:
            return torch.square(step.model(x).float() - kept)

        moved, length = noisy(images, epsilon), 1.25 * epsilon / self.steps
        with frozen(step.model):
            for _ in range(self.steps):
                moved = moved_to_raise(distances, images, start=moved, epsilon=epsilon, step=length)
        with frozen_statistics(step.model):
            return self.weight / 2 * (distances(images).mean() + distances(moved).mean())


@dataclass(frozen=True)
class AnchoredRanking(TrainingDefense):
    """Keep each attacked image in its place among the clean ones of its batch.

    weight · mean(max(0, m − sign(yᵢ − yⱼ) · (f(x′ᵢ) − f(xⱼ)))) over pairs with labels more than m apart, x′ being a
    random start and a signed step of 1.25 ε, in eval mode, past the better or the worse images, whichever are more.

    Source: after the anchored training of Gushchin et al., "BiRQA", arXiv:2602.20351, which bounds the error of
    attacked images by a ranking loss against clean anchors. All else is (ours), read from its abstract.
    """

    weight: float = 1.0
    epsilon: float = 4 / 255
    margin: float = 0.1  # m, in targets' unit

    @classmethod
    def of(cls, context: FitContext) -> Self:
        return cls(context.settings.hinge_weight, context.settings.at_epsilon / 255)

    def penalty(self, step: Step) -> Tensor:
        apart = step.targets[:, None] - step.targets
        order = apart.sign() * (apart.abs() > self.margin)

        def objective(x: Tensor) -> Tensor:
            return torch.mul(-order.sum(1), step.model(x).float())

        start, length = noisy(step.images, self.epsilon), 1.25 * self.epsilon
        with frozen(step.model):
            attacked = moved_to_raise(objective, step.images, start=start, epsilon=self.epsilon, step=length)
        with frozen_statistics(step.model):
            above = step.model(attacked).float()[:, None] - step.model(step.images).float()
        hinges = (self.margin - order * above).clamp_min(0) * order.abs()
        return torch.div(self.weight * hinges.sum(), order.abs().sum().clamp_min(1))
