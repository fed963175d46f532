"""Zhang et al.: the score against a full-reference distance to the clean image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.adam import ascend, pixels_within, working
from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.limits import Count, NotNegative, Positive
from iqa_armor.metrics.fidelity import ssim
from iqa_armor.models.reference import perceptual_network

Distance = Literal["ssim", "lpips", "dists"]


@dataclass(frozen=True)
class Zhang(LinfAttack):
    """Move the predicted score of an image at a price on its perceptual distance from the clean one.

    Called, it raises ValueError if images are too small for the distance, and ModelLoadError if weights of the distance
    are missing or run code when opened.

    Source: Zhang et al., "Perceptual Attacks of No-Reference Image Quality Models with Human-in-the-Loop", NeurIPS
    2022, arXiv:2210.00933, without the humans who chose λ among the results. (ours): the change is limited by
    projection; the price is relative to the gain; the iterate with the best score is kept.
    """

    epsilon: NotNegative = 10 / 255  # largest change of a pixel value, images being in [0, 1]
    # "ssim" (1 − SSIM, for images of 11×11 pixels or more); "lpips" (32×32) or "dists" (16×16), whose weights must lie
    # in torch.hub's folder of checkpoints already.
    distance: Distance = "ssim"
    weight: NotNegative = 3.0  # price λ of a distance of 1, in the unit of `ascend`
    step_size: Positive = 2 / 255  # Adam's learning rate, in the units of epsilon
    steps: Count = 20  # number of gradients
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        least = {"ssim": 11, "lpips": 32, "dists": 16}[self.distance]  # SSIM's window; the halvings in VGG-16
        if min(images.shape[2:]) < least:
            raise ValueError(f"{self.distance} needs at least {least}×{least} pixels, got {tuple(images.shape[2:])}")
        clean = images.detach().to(working(images.dtype))
        measure = _measure(self.distance, clean)
        search = pixels_within(clean, self.epsilon, lambda attacked: self.weight * measure(attacked))
        return ascend(score, images, search, direction=self.direction, steps=self.steps, step_size=self.step_size)


def _measure(distance: Distance, clean: Tensor) -> Callable[[Tensor], Tensor]:
    if distance == "ssim":
        return lambda attacked: 1 - ssim(clean, attacked)
    network = perceptual_network(distance).to(clean)
    return lambda attacked: torch.as_tensor(network(attacked.clamp(0, 1), clean)).reshape(len(clean))
