"""Projected gradient descent in the L-infinity ball, also known as I-FGSM."""

from dataclasses import dataclass

from torch import Generator, Tensor

from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.attacks.projection import project_linf
from iqa_armor.attacks.scores import score_gradient
from iqa_armor.limits import Count, NotNegative, Positive


@dataclass(frozen=True)
class PGD(LinfAttack):
    """Move the predicted score of an image inside an L-infinity ball.

    Args:
        epsilon: Ball radius, pixels being in [0, 1].
        step_size: Length of one signed gradient step, in the same units.
        steps: Number of gradient steps, from a zero start.
        direction: +1 raises the score, -1 lowers it.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
    arXiv:1706.06083, Section 2.1; step and zero start as in [RA] Meleshin et al., arXiv:2506.04951.
    """

    epsilon: NotNegative = 4 / 255
    step_size: Positive = 1 / 255
    steps: Count = 10
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        images = images.detach()
        attacked = images.clone()
        for _ in range(self.steps):
            attacked = project_linf(self.ascend(score, attacked), images, self.epsilon).clamp(0, 1)
        return attacked

    def ascend(self, score: ScoreFn, images: Tensor) -> Tensor:
        """Return images (N, 3, H, W) moved by one signed gradient step, not yet projected."""
        return images + self.direction * self.step_size * score_gradient(score, images).sign()
