"""Steps along gradients, and the best image of each met on the way."""

from collections.abc import Callable

import torch
from torch import Tensor

from iqa_armor.attacks.base import Direction, ScoreFn
from iqa_armor.attacks.projection import per_image
from iqa_armor.attacks.scores import evaluate_score, score_and_gradient


class Best:
    """The images (N, 3, H, W) on which the attacker fared best so far, each on its own, and its gains (N,) there.

    A gain of NaN is never beaten and never accepted.
    """

    def __init__(self, images: Tensor, gains: Tensor) -> None:
        self.images, self.gains = images, gains

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

    `move` maps images and the gradient of their scores to the next images, within the budget and [0, 1]; there are
    as many gradients as moves. The score and its error are those of `score_and_gradient`.
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
