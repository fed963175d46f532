"""Momentum iterative FGSM, with one budget for all images or one that follows their contrast."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d

from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.attacks.climb import climb
from iqa_armor.attacks.projection import divide_by_norm, linf_box, per_image
from iqa_armor.limits import Count, NotNegative, Positive


@dataclass(frozen=True)
class MIFGSM(LinfAttack):
    """Move the predicted score inside an L-infinity ball, following gradients accumulated over the steps.

    Source: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, arXiv:1710.06081, Algorithm 1:
    g ← μ·g + ∇/‖∇‖₁, then a signed step. The step size is a setting of its own, not ε/T, and the best iterate
    of every image is returned instead of the last (ours).
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    step_size: Positive = 1 / 255  # length of one signed step, in the same units
    steps: Count = 10  # number of gradient steps, from a zero start
    momentum: NotNegative = 1.0  # share of the accumulated gradient that the next step keeps; 0 gives PGD
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        images = images.detach()
        low, high = linf_box(images, per_image(self.budgets(images)))
        accumulated = torch.zeros_like(images)

        def move(attacked: Tensor, gradient: Tensor) -> Tensor:
            nonlocal accumulated
            accumulated = self.momentum * accumulated + divide_by_norm(gradient, order=1)
            signs = accumulated.sign().to(images)
            return torch.clamp(attacked + self.direction * self.step_size * signs, low, high)

        return climb(score, images, move, direction=self.direction, steps=self.steps)

    def budgets(self, images: Tensor) -> Tensor:
        """Return the ball radius of every image (N,), at most `epsilon`."""
        return images.new_full((len(images),), self.epsilon)


@dataclass(frozen=True)
class AMIFGSM(MIFGSM):
    """MI-FGSM whose budget is small on flat images and whole on busy ones, where changes are hard to see.

    An image's radius is ε · clamp(c / full_contrast, 1/4, 1), c being `local_contrast` of the clean image: the
    larger its contrast, the more it masks.

    Source: the adaptive form of MI-FGSM among the attacks of [AP] Gushchin et al., arXiv:2404.06957, whose budget
    depends on a no-reference measure of the clean image; this measure, its limits and the bound by ε are (ours).
    """

    # Contrast from which an image gets the whole budget; of 61 photographs of NIPS 2017 and CLIVE a tenth reach .08,
    # and the median is .04. The others are those of MIFGSM.
    full_contrast: Positive = 0.08

    def budgets(self, images: Tensor) -> Tensor:
        """Return the ball radius of every image (N,), between a quarter of `epsilon` and `epsilon`."""
        shares = (local_contrast(images) / self.full_contrast).clamp(0.25, 1)
        return self.epsilon * shares.to(images)


def local_contrast(images: Tensor) -> Tensor:
    """Return how busy images are, (N,), the mean of their `contrast_map`."""
    return contrast_map(images).mean((1, 2, 3))


def contrast_map(images: Tensor) -> Tensor:
    """Return how busy images (N, 3, H, W) in [0, 1] are at each pixel, (N, 1, H, W), from 0, flat, to 0.5.

    It is the standard deviation of the channels' mean in a window of 7×7 pixels, cut at the borders (ours); at least
    float32.
    """
    gray = images.to(torch.promote_types(images.dtype, torch.float32)).mean(1, keepdim=True)
    gray = gray - gray.mean((2, 3), keepdim=True)  # E[x²] − E[x]² loses fewer digits around zero
    pooled = partial(avg_pool2d, kernel_size=7, stride=1, padding=3, count_include_pad=False)
    mean, power = pooled(gray), pooled(gray.square())
    return (power - mean.square()).clamp_min(0).sqrt()
