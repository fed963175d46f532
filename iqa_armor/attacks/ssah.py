"""SSAH: an attack that leaves the low frequencies of an image alone."""

from dataclasses import dataclass

from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.attacks.adam import ascend, pixels_within, working
from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.limits import Count, NotNegative, Positive


@dataclass(frozen=True)
class SSAH(LinfAttack):
    """Move the predicted score of an image at a price on the change of its low-frequency wavelet band.

    Source: Luo et al., "Frequency-driven Imperceptible Adversarial Attack on Semantic Similarity", CVPR 2022. (ours):
    the score stands where the paper has the similarity of a classifier's features; the change is limited by projection,
    not by the price alone, which is relative to epsilon and to the gain; the iterate with the best score is kept.
    """

    epsilon: NotNegative = 10 / 255  # largest change of a pixel value, images being in [0, 1]
    weight: NotNegative = 1.0  # price of a band that changes by epsilon everywhere, in the unit of `ascend`
    step_size: Positive = 1 / 255  # Adam's learning rate, in the units of epsilon
    steps: Count = 20  # number of gradients
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        clean = images.detach().to(working(images.dtype))
        low = low_band(clean)

        def price(attacked: Tensor) -> Tensor:
            return self.weight / self.epsilon * (low_band(attacked) - low).abs().mean((1, 2, 3))

        search = pixels_within(clean, self.epsilon, price)
        return ascend(score, images, search, direction=self.direction, steps=self.steps, step_size=self.step_size)


def low_band(images: Tensor) -> Tensor:
    """Return the low-frequency band (N, 3, ⌈H/2⌉, ⌈W/2⌉) of a Haar wavelet of images: means of 2×2 pixels.

    That is half the coefficients of the orthonormal transform, so that a uniform image keeps its value; a last odd row
    or column is repeated (ours).
    """
    # In ceil mode a window over the border averages the pixels it has, which is what repeating them gives.
    return functional.avg_pool2d(images, 2, ceil_mode=True)
