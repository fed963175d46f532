"""The universal adversarial perturbation: one pattern for every image."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.attacks.base import Batches, Direction, FittedLinf, LinfAttack, ScoreFn
from iqa_armor.attacks.projection import project_linf
from iqa_armor.attacks.scores import batches_of, mean_score, score_and_gradient
from iqa_armor.limits import Count, NotNegative, Positive

Placement = Literal["resize", "tile"]


@dataclass(frozen=True, eq=False)
class Pattern(LinfAttack):
    """Add one pattern (1, 3, h, w) to every image, clipped to the budget, which may be smaller than the fitted one.

    It draws nothing and asks no score; what it was fitted for is its `direction`, and `placement` is that of `UAP`.
    """

    pattern: Tensor
    epsilon: NotNegative = 4 / 255
    direction: Direction = +1
    placement: Placement = "tile"

    def __post_init__(self) -> None:
        if self.pattern.ndim != 4 or self.pattern.shape[:2] != (1, 3) or not self.pattern.numel():
            raise ValueError(f"Pattern needs a pattern (1, 3, h, w), got {tuple(self.pattern.shape)}")
        super().__post_init__()

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        images = images.detach()
        placed = place(self.pattern.detach().to(images), images.shape[-2:], self.placement)
        return project_linf(images + placed, images, self.epsilon).clamp(0, 1)


@dataclass(frozen=True)
class UAP(FittedLinf):
    """Fit one pattern that moves the mean score of images inside an L-infinity ball.

    Each pass adds up the gradient over all images and takes one signed step, so how the images are batched does
    not matter.

    Source: Moosavi-Dezfooli et al., "Universal adversarial perturbations", CVPR 2017, arXiv:1610.08401; gradient of
    the mean score, clipping and ten passes as in [RA] Meleshin et al., arXiv:2506.04951. One step of 1/255 per
    pass, the best pattern instead of the last one, and the placement on other sizes are (ours).
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    step_size: Positive = 1 / 255  # length of one signed step, in the same units
    passes: Count = 10  # passes over the images, each with one step, from a zero pattern
    direction: Direction = +1
    # How images of another size than the first one get the pattern: "tile" repeats and crops it, "resize" interpolates
    # bilinearly, which costs the pattern most of its effect on a convolutional network.
    placement: Placement = "tile"

    def fit(self, score: ScoreFn, batches: Batches, generator: Generator) -> Pattern:
        """Return the pattern with the best mean score over the images, no pattern at all being one candidate."""
        first = next(batches_of(batches))
        pattern = torch.zeros_like(first[:1])
        best, best_mean = pattern, -math.inf
        for _ in range(self.passes):
            gradient, mean = self._survey(score, batches, pattern)
            if self.direction * mean > best_mean:
                best, best_mean = pattern, self.direction * mean
            moved = pattern + self.direction * self.step_size * gradient.sign()
            pattern = moved.clamp(-self.epsilon, self.epsilon)
        last = self._fitted(pattern)
        is_best = self.direction * mean_score(score, last, batches, generator) > best_mean
        return last if is_best else self._fitted(best)

    def _survey(self, score: ScoreFn, batches: Batches, pattern: Tensor) -> tuple[Tensor, float]:
        """Return the gradient of the sum of all scores by the pattern, and their mean."""
        gradient, total, count = torch.zeros_like(pattern), 0.0, 0
        for images in batches_of(batches):
            scores, by_pattern = score_and_gradient(partial(self._scores, score, images), pattern.to(images))
            gradient += by_pattern.to(gradient)
            total += float(scores.double().sum())
            count += len(images)
        return gradient, total / count

    def _scores(self, score: ScoreFn, images: Tensor, pattern: Tensor) -> Tensor:
        return score((images + place(pattern, images.shape[-2:], self.placement)).clamp(0, 1))

    def _fitted(self, pattern: Tensor) -> Pattern:
        return Pattern(pattern, epsilon=self.epsilon, direction=self.direction, placement=self.placement)


def place(pattern: Tensor, size: tuple[int, ...], placement: Placement) -> Tensor:
    """Return a pattern (1, 3, h, w) at a size (H, W), differentiably; no value exceeds the pattern's largest."""
    if tuple(pattern.shape[-2:]) == tuple(size):
        return pattern
    if placement == "tile":
        repeats = [math.ceil(side / own) for side, own in zip(size, pattern.shape[-2:], strict=True)]
        return pattern.repeat(1, 1, *repeats)[..., : size[0], : size[1]]
    # Without antialiasing, which would average the pattern away where images are smaller.
    return functional.interpolate(pattern, size=tuple(size), mode="bilinear", align_corners=False)
