"""MADC: gradient ascent on the score among images of one mean squared error."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.adam import working
from iqa_armor.attacks.base import Direction, Norm, ScoreFn
from iqa_armor.attacks.climb import climb
from iqa_armor.limits import Count, Limited, NotNegative, Positive


@dataclass(frozen=True)
class MADC(Limited):
    """Move the predicted score of an image along the sphere of constant mean squared error around it.

    Source: Wang & Simoncelli, "Maximum differentiation (MAD) competition", Journal of Vision 2008, as the attack of
    [AP] Gushchin et al., arXiv:2404.06957, RMSE at most 10/255. (ours): the start is the sphere's point along the
    image's own gradient, not noise; steps have one length, not a searched one; the iterate with the best score is kept.
    """

    norm: ClassVar[Norm] = "rmse"
    # Root mean square of the change over an image's values, images being in [0, 1]; smaller only where values end at 0
    # or 1.
    epsilon: NotNegative = 10 / 255
    step_size: Positive = 4 / 255  # root mean square of one step along the sphere, in the same units
    steps: Count = 10  # number of gradients; the first leads from the image to the sphere
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        clean = images.detach().to(working(images.dtype))
        change, length = torch.zeros_like(clean), self.epsilon

        def move(_: Tensor, gradient: Tensor) -> Tensor:
            nonlocal change, length
            slope, radial = gradient.to(clean), _unit(change)
            tangent = _unit(slope - (slope * radial).mean((1, 2, 3), keepdim=True) * radial)
            moved = self.epsilon * _unit(change + self.direction * length * tangent)
            attacked = (clean + moved).clamp(0, 1)  # brings every value nearer to the clean one
            change, length = attacked - clean, self.step_size
            return attacked.to(images.dtype)

        return climb(score, images.detach(), move, direction=self.direction, steps=self.steps)


def _unit(vectors: Tensor) -> Tensor:
    """Scale every image's vector (N, 3, H, W) to a root mean square of 1; zero stays zero."""
    # By the largest value first: squares of small gradients would vanish.
    scaled = vectors / _positive(vectors.abs().amax((1, 2, 3), keepdim=True))
    return scaled / _positive(scaled.square().mean((1, 2, 3), keepdim=True).sqrt())


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)
