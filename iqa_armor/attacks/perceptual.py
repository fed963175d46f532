"""Adam on changes that are hard to see: at edges, at high frequencies, at a small perceptual distance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.attacks.adam import Search, ascend, pixels_within, working
from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.limits import Count, NotNegative, Positive
from iqa_armor.metrics.fidelity import ssim
from iqa_armor.models.reference import perceptual_network

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class KorhonenYou(LinfAttack):
    """Move the predicted score of an image by changes hidden at its edges; one without edges stays as it is.

    Source: Korhonen & You, "Adversarial Attacks Against Blind Image Quality Assessment Models", QoEVMA 2022. (ours): a
    mask that is the Sobel magnitude of the luma divided by its maximum in the image; the change is limited by
    projection, so that budgets can be compared; the iterate with the best score is kept.
    """

    epsilon: NotNegative = 10 / 255  # largest change of a pixel value, images being in [0, 1]
    step_size: Positive = 4 / 255  # Adam's learning rate for the perturbation at the strongest edge, in the same units
    steps: Count = 10  # number of gradients
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        clean = images.detach().to(working(images.dtype))
        mask = edge_map(clean)
        lowest, highest = (-clean).clamp(min=-self.epsilon), (1 - clean).clamp(max=self.epsilon)
        search = Search(
            start=torch.zeros_like(clean),
            render=lambda change: clean + mask * change,
            # Where there is no edge, bounds are ±∞ or 0/0; the change does nothing there and stays.
            project=lambda change: torch.where(mask > 0, change.clamp(lowest / mask, highest / mask), change),
            radius=self.epsilon,
        )
        return ascend(score, images, search, direction=self.direction, steps=self.steps, step_size=self.step_size)


def edge_map(images: Tensor) -> Tensor:
    """Return the strength (N, 1, H, W) of the edges of images (N, 3, H, W), the strongest of each image being 1.

    It is 0 everywhere in an image of one luma; outside, the border is repeated.
    """
    luma = (images * images.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    across = images.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([across, across.T]).unsqueeze(1)
    slopes = functional.conv2d(functional.pad(luma, (1, 1, 1, 1), mode="replicate"), kernels)
    strength = slopes.square().sum(1, keepdim=True).sqrt()
    strength = torch.where(strength > 1e-5, strength, 0.0)  # rounding makes faint edges where there are none
    return strength / strength.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(strength.dtype).tiny)


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
