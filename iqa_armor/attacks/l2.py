"""Projected gradient descent in the Euclidean ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Direction, Norm, ScoreFn
from iqa_armor.attacks.tracking import Best, divide_by_norm, evaluate_score, per_image, score_and_gradient


@dataclass(frozen=True)
class L2PGD:
    """Move the predicted score of an image inside an L2 ball around it.

    Args:
        epsilon: Ball radius: the largest Euclidean length of the change of a whole image, pixels being in [0, 1].
            One step of 1/255 on every value of an H×W image has the length √(3·H·W)/255.
        step_share: Length of one step as a share of epsilon, so that budgets compare.
        steps: Number of gradient steps, from a zero start.
        direction: +1 raises the score, -1 lowers it.

    Raises:
        ValueError: If the radius is negative, step share or count are not positive, or a length is not finite.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
    arXiv:1706.06083, Section 2.1, for the L2 ball: steps along ∇/‖∇‖₂. The zero start, a step of a quarter of the
    radius, and returning the best iterate of every image instead of the last are (ours).
    """

    norm: ClassVar[Norm] = "l2"

    epsilon: float = 1.0
    step_share: float = 0.25
    steps: int = 10
    direction: Direction = +1

    def __post_init__(self) -> None:
        lengths_fit = 0 <= self.epsilon < math.inf and 0 < self.step_share < math.inf
        if not lengths_fit or self.steps < 1 or self.direction not in (1, -1):
            raise ValueError(
                f"L2PGD needs finite epsilon >= 0 and step_share > 0, steps >= 1, direction 1 or -1, got {self}"
            )

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return attacked images (N, 3, H, W) in [0, 1]; `score` maps them to (N,); nothing is drawn."""
        images = images.detach()
        step_length = self.direction * self.step_share * self.epsilon
        scores, gradient = score_and_gradient(score, images)
        best = Best(images, self.direction * scores)
        attacked = images
        for step in range(1, self.steps + 1):
            moved = attacked + (step_length * divide_by_norm(gradient, order=2)).to(images)
            # Clamping moves every value towards the clean one, so the images stay in the ball.
            attacked = project_l2(moved, images, self.epsilon).clamp(0, 1)
            if step < self.steps:
                scores, gradient = score_and_gradient(score, attacked)
            else:
                scores = evaluate_score(score, attacked)
            best.update(attacked, self.direction * scores)
        return best.images


def project_l2(images: Tensor, center: Tensor, epsilon: float) -> Tensor:
    """Return the nearest images to `images` whose change from `center` has a Euclidean length of at most epsilon.

    Args:
        images: Images (N, 3, H, W), any range.
        center: Images in the middle of the ball, same shape.
        epsilon: Radius of the ball, pixels being in [0, 1].
    """
    change = images - center
    lengths = torch.linalg.vector_norm(change.flatten(1), dim=1)
    shares = epsilon / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    return torch.where(per_image(lengths > epsilon), center + per_image(shares) * change, images)
