"""MADC: gradient ascent on the score among images of one mean squared error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Direction, Norm, ScoreFn
from iqa_armor.attacks.optimize import working
from iqa_armor.attacks.tracking import Best, score_and_gradient


@dataclass(frozen=True)
class MADC:
    """Move the predicted score of an image along the sphere of constant mean squared error around it.

    Args:
        epsilon: Root mean square of the change over an image's values, images being in [0, 1]; smaller only
            where values end at 0 or 1.
        step_size: Root mean square of one step along the sphere, in the same units.
        steps: Number of gradients; the first leads from the image to the sphere.
        direction: +1 raises the score, -1 lowers it.

    Raises:
        ValueError: If the radius is negative, step size or count are not positive, or a length is not finite.

    Source: Wang & Simoncelli, "Maximum differentiation (MAD) competition", Journal of Vision 2008,
    as the attack of [AP] Gushchin et al., arXiv:2404.06957, RMSE at most 10/255. (ours): the start is the
    sphere's point along the image's own gradient, where the paper starts from noise; steps have one length,
    where the paper searches for it; the iterate with the best score is kept.
    """

    norm: ClassVar[Norm] = "rmse"

    epsilon: float = 10 / 255
    step_size: float = 4 / 255
    steps: int = 10
    direction: Direction = +1

    def __post_init__(self) -> None:
        lengths_fit = 0 <= self.epsilon < math.inf and 0 < self.step_size < math.inf
        if not lengths_fit or self.steps < 1 or self.direction not in (1, -1):
            raise ValueError(
                f"MADC needs finite epsilon >= 0 and step_size > 0, steps >= 1, direction 1 or -1, got {self}"
            )

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return attacked images (N, 3, H, W) in [0, 1]; `score` maps them to (N,); MADC draws nothing."""
        clean = images.detach().to(working(images.dtype))
        change = torch.zeros_like(clean)
        clean_scores, gradient = (found.to(clean.dtype) for found in score_and_gradient(score, images.detach()))
        best, step = Best(images.detach(), torch.zeros_like(clean_scores)), self.epsilon
        for _ in range(self.steps - 1):
            attacked, change = self._move(clean, change, gradient, length=step)
            scores, gradient = (found.to(clean.dtype) for found in score_and_gradient(score, attacked.to(images.dtype)))
            best.update(attacked, self.direction * (scores - clean_scores))
            step = self.step_size
        attacked, change = self._move(clean, change, gradient, length=step)
        with torch.no_grad():
            scores = score(attacked.to(images.dtype)).to(clean_scores.dtype)
        best.update(attacked, self.direction * (scores - clean_scores))
        return best.images

    def _move(self, clean: Tensor, change: Tensor, gradient: Tensor, *, length: float) -> tuple[Tensor, Tensor]:
        """Return attacked images and their change after a step along the sphere and back onto it."""
        radial = _unit(change)
        tangent = _unit(gradient - (gradient * radial).mean((1, 2, 3), keepdim=True) * radial)
        moved = self.epsilon * _unit(change + self.direction * length * tangent)
        attacked = (clean + moved).clamp(0, 1)  # brings every value nearer to the clean one
        return attacked, attacked - clean


def _unit(vectors: Tensor) -> Tensor:
    """Scale every image's vector (N, 3, H, W) to a root mean square of 1; zero stays zero."""
    # By the largest value first: squares of small gradients would vanish.
    scaled = vectors / _positive(vectors.abs().amax((1, 2, 3), keepdim=True))
    return scaled / _positive(scaled.square().mean((1, 2, 3), keepdim=True).sqrt())


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)
