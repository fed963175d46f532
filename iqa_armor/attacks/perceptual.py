"""Adam on changes that are hard to see: at edges, at high frequencies, at a small perceptual distance."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.attacks.pgd import contrast_map
from iqa_armor.attacks.scores import Search, ascend, climb, pixels_within, project_linf, working
from iqa_armor.limits import Count, NotNegative, Positive
from iqa_armor.metrics.fidelity import ssim
from iqa_armor.models.reference import perceptual_network


@dataclass(frozen=True)
class KorhonenYou(LinfAttack):
    """Move the predicted score of an image by changes hidden at its edges; one without edges stays as it is.

    Source: Korhonen & You, "Adversarial Attacks Against Blind Image Quality Assessment Models", QoEVMA 2022. (ours):
    the mask, `edge_map`; the change is limited by projection; the iterate with the best score is kept.
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
    """Return the Sobel magnitude of the luma, (N, 1, H, W), over each image's largest; 0 where it is uniform."""
    from kornia.color import rgb_to_grayscale  # heavy, and needed here only
    from kornia.filters import spatial_gradient

    slopes: Tensor = spatial_gradient(rgb_to_grayscale(images), normalized=False)  # Sobel's, of the luma of BT.601
    strength = slopes.square().sum(2).sqrt()
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
    """Return the low-frequency band (N, 3, ⌈H/2⌉, ⌈W/2⌉) of a Haar wavelet: means of 2×2 pixels, not doubled (ours)."""
    # In ceil mode a window over the border averages the pixels it has: a last odd row or column is repeated (ours).
    return functional.avg_pool2d(images, 2, ceil_mode=True)


Distance = Literal["ssim", "lpips", "dists"]


@dataclass(frozen=True)
class Zhang(LinfAttack):
    """Move the predicted score of an image at a price on its perceptual distance from the clean one.

    A ValueError refuses images too small for the distance, a ModelLoadError weights that are missing or run code.

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
        network = None if self.distance == "ssim" else perceptual_network(self.distance).to(clean)

        def price(attacked: Tensor) -> Tensor:
            if network is None:
                return self.weight * (1 - ssim(clean, attacked))
            return self.weight * torch.as_tensor(network(attacked.clamp(0, 1), clean)).reshape(len(clean))

        search = pixels_within(clean, self.epsilon, price)
        return ascend(score, images, search, direction=self.direction, steps=self.steps, step_size=self.step_size)


@dataclass(frozen=True)
class IOI(LinfAttack):
    """Move the predicted score of an image in one iteration that is hard to see.

    Source: Shumitskaya et al., "IOI: Invisible One-Iteration Adversarial Attack on No-Reference Image- and
    Video-Quality Metrics", ICML 2024, arXiv:2403.05955: FGSM, then a module that truncates its change in the frequency
    domain, after which ‖change‖∞ is at most (1 − f) times the mean modulus of the FGSM's spectrum (Theorem 1), and one
    that weighs it. (ours), read from its abstract and theorem: the lowest frequencies go; the weight is that of
    `contrast_map`; f; projection; an image that one step does not help stays clean. Frames of videos are not coupled.
    """

    epsilon: NotNegative = 8 / 255  # length of the step before it is filtered, and largest change of a pixel value
    truncated: Annotated[float, "[0, 1)"] = 0.1  # share f of the frequencies, the lowest, that the step loses
    full_contrast: Positive = 0.04  # local contrast from which a pixel takes the whole step; less takes a share
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        images = images.detach()
        weight = (contrast_map(images) / self.full_contrast).clamp(max=1)

        def move(attacked: Tensor, gradient: Tensor) -> Tensor:
            step = self.direction * self.epsilon * gradient.sign().to(weight)
            change = (weight * without_low_frequencies(step, self.truncated)).to(images.dtype)
            return project_linf(attacked + change, images, self.epsilon).clamp(0, 1)

        return climb(score, images, move, direction=self.direction, steps=1)


def without_low_frequencies(change: Tensor, share: float) -> Tensor:
    """Return a change (N, 3, H, W) without so large a share of its frequencies, the lowest; at least in float32."""
    change = change.to(working(change.dtype))
    rows, columns = (torch.fft.fftfreq(side, device=change.device).abs() for side in change.shape[-2:])
    radius = torch.hypot(rows[:, None], columns)
    kept = radius >= radius.flatten().sort().values[int(share * radius.numel())]
    return torch.real(torch.fft.ifft2(torch.fft.fft2(change) * kept))
