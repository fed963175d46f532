"""Projected gradient descent in the Euclidean ball."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from iqa_armor.attacks.base import Direction, Norm, ScoreFn
from iqa_armor.attacks.climb import climb
from iqa_armor.attacks.projection import divide_by_norm, project_l2
from iqa_armor.limits import Count, Limited, NotNegative, Positive


@dataclass(frozen=True)
class L2PGD(Limited):
    """Move the predicted score of an image inside an L2 ball around it.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083,
    Section 2.1, for the L2 ball: steps along ∇/‖∇‖₂. The zero start, a step of a quarter of the radius, and returning
    the best iterate of every image instead of the last are (ours).
    """

    norm: ClassVar[Norm] = "l2"
    # Ball radius: the largest Euclidean length of the change of a whole image, pixels being in [0, 1]. One step of
    # 1/255 on every value of an H×W image has the length √(3·H·W)/255.
    epsilon: NotNegative = 1.0
    step_share: Positive = 0.25  # length of one step as a share of epsilon, so that budgets compare
    steps: Count = 10  # number of gradient steps, from a zero start
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        images = images.detach()
        length = self.direction * self.step_share * self.epsilon

        def move(attacked: Tensor, gradient: Tensor) -> Tensor:
            moved = attacked + (length * divide_by_norm(gradient, order=2)).to(images)
            # Clamping moves every value towards the clean one, so the images stay in the ball.
            return project_l2(moved, images, self.epsilon).clamp(0, 1)

        return climb(score, images, move, direction=self.direction, steps=self.steps)
