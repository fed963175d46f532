"""Steps along gradients, and the best image of each met on the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iqa_armor.attacks.base import Direction, ScoreFn
from iqa_armor.attacks.projection import per_image
from iqa_armor.attacks.scores import evaluate_score, score_and_gradient


class Best:
    """The images on which the attacker fared best so far, each image on its own.

    Args:
        images: Images (N, 3, H, W) to begin with.
        gains: What the attacker maximizes there, (N,); NaN is never beaten and never accepted.
    """

    def __init__(self, images: Tensor, gains: Tensor) -> None:
        self.images = images
        self.gains = gains

    def update(self, images: Tensor, gains: Tensor) -> Tensor:
        """Keep what is better than before; return which images are, (N,) bool."""
        better = gains > self.gains
        self.images = torch.where(per_image(better), images.to(self.images.dtype), self.images)
        self.gains = torch.where(better, gains, self.gains)
        return better


def climb(
    score: ScoreFn, images: Tensor, move: Callable[[Tensor, Tensor], Tensor], *, direction: Direction, steps: int
) -> Tensor:
    """Return the images (N, 3, H, W) with the best scores on the way of an attacker, clean ones included.

    Args:
        score: Maps images to scores (N,).
        images: Clean images, where the way begins.
        move: Maps images and the gradient of their scores to the next images, within the budget and [0, 1].
        direction: +1 raises the score, -1 lowers it.
        steps: Number of moves, and of gradients.

    Raises:
        ArmorError: If the score does not depend on the pixels by differentiable steps.
    """
    scores, gradient = score_and_gradient(score, images)
    best, attacked = Best(images, direction * scores), images
    for step in range(1, steps + 1):
        attacked = move(attacked, gradient)
        if step < steps:
            scores, gradient = score_and_gradient(score, attacked)
        else:
            scores = evaluate_score(score, attacked)
        best.update(attacked, direction * scores)
    return best.images
