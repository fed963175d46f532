"""Attacks that are learned from some images: a pattern for all, a network for any."""

import copy
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from iqa_armor.attacks.base import Batches, Direction, FittedLinf, LinfAttack, ScoreFn
from iqa_armor.attacks.scores import batches_of, mean_score, project_linf, score_and_gradient, score_gradient
from iqa_armor.limits import Count, NotNegative, Positive
from iqa_armor.randomness import seeded

Placement = Literal["resize", "tile"]


@dataclass(frozen=True, eq=False)
class Pattern(LinfAttack):
    """Add one pattern (1, 3, h, w), placed as in `UAP`, to every image; it draws nothing and asks no score."""

    pattern: Tensor
    epsilon: NotNegative = 4 / 255  # to which the pattern is clipped: that of the fit, or less
    direction: Direction = +1  # what it was fitted for
    placement: Placement = "tile"

    def __post_init__(self) -> None:
        if self.pattern.ndim != 4 or self.pattern.shape[:2] != (1, 3) or not self.pattern.numel():
            raise ValueError(f"Pattern needs a pattern (1, 3, h, w), got {tuple(self.pattern.shape)}")
        super().__post_init__()

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        images = images.detach()
        placed = place(self.pattern.detach().to(images), images.shape[-2:], self.placement)
        return project_linf(images + placed, images, self.epsilon).clamp(0, 1)


@dataclass(frozen=True)
class UAP(FittedLinf):
    """Fit one pattern that moves the mean score of images inside an L-infinity ball: one signed step per pass.

    Source: Moosavi-Dezfooli et al., "Universal adversarial perturbations", CVPR 2017, arXiv:1610.08401; gradient of
    the mean score, clipping and ten passes as in [RA] Meleshin et al., arXiv:2506.04951. One step of 1/255 per
    pass, the best pattern instead of the last one, and the placement on other sizes are (ours).
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    step_size: Positive = 1 / 255  # length of one signed step, in the same units
    passes: Count = 10  # passes over the images, each with one step, from a zero pattern
    direction: Direction = +1
    # On images of another size: repeated and cropped, or interpolated, which costs most of the effect on a CNN.
    placement: Placement = "tile"

    def fit(self, score: ScoreFn, batches: Batches, generator: Generator) -> Pattern:
        """Return the pattern with the best mean score over the images, no pattern at all being one candidate."""
        pattern = torch.zeros_like(next(batches_of(batches))[:1])
        best, best_mean = pattern, -math.inf
        for _ in range(self.passes):
            gradient, mean = self._survey(score, batches, pattern)
            if self.direction * mean > best_mean:
                best, best_mean = pattern, self.direction * mean
            step = self.direction * self.step_size * gradient.sign()
            pattern = (pattern + step).clamp(-self.epsilon, self.epsilon)
        last, kept = (Pattern(each, self.epsilon, self.direction, self.placement) for each in (pattern, best))
        return last if self.direction * mean_score(score, last, batches, generator) > best_mean else kept

    def _survey(self, score: ScoreFn, batches: Batches, pattern: Tensor) -> tuple[Tensor, float]:
        """Return the gradient of the sum of all scores by the pattern, and their mean."""
        gradient, total, count = torch.zeros_like(pattern), 0.0, 0
        for images in batches_of(batches):
            scores, by_pattern = score_and_gradient(partial(self._scores, score, images), pattern.to(images))
            gradient += by_pattern.to(gradient)
            total += float(scores.double().sum())
            count += len(images)
        return gradient, total / count

    def _scores(self, score: ScoreFn, images: Tensor, pattern: Tensor) -> Tensor:
        return score((images + place(pattern, images.shape[-2:], self.placement)).clamp(0, 1))


def place(pattern: Tensor, size: tuple[int, ...], placement: Placement) -> Tensor:
    """Return a pattern (1, 3, h, w) at a size (H, W), differentiably; no value exceeds the pattern's largest."""
    if tuple(pattern.shape[-2:]) == tuple(size):
        return pattern
    if placement == "tile":
        repeats = [math.ceil(side / own) for side, own in zip(size, pattern.shape[-2:], strict=True)]
        return pattern.repeat(1, 1, *repeats)[..., : size[0], : size[1]]
    # Without antialiasing, which would average the pattern away where images are smaller.
    return functional.interpolate(pattern, size=tuple(size), mode="bilinear", align_corners=False)


class PerturbationNetwork(nn.Module):
    """U-Net with two halvings, from each image (N, 3, H, W) in [0, 1] by itself to directions (N, 3, H, W) in [-1, 1].

    Source: Ronneberger et al., "U-Net", MICCAI 2015, arXiv:1505.04597, for the shape. The widths, normalisation
    over each image's features, and a sub-pixel path (Shi et al., CVPR 2016, arXiv:1609.05158) that lets a pixel's
    change depend on its place in the grid of a strided network are (ours).
    """

    def __init__(self) -> None:
        super().__init__()
        full, half, quarter = 16, 24, 32  # channels by size
        self.entry, self.middle = _block(3, full), _block(quarter, quarter)
        self.down1, self.down2 = _block(full, half, stride=2), _block(half, quarter, stride=2)
        self.up1, self.up2 = _block(quarter + half, half), _block(half + full, full)
        self.doubled = nn.Upsample(scale_factor=2)
        self.exit, self.subpixel_exit = nn.Conv2d(full, 3, 3, padding=1), nn.Conv2d(half, 3 * 2**2, 1)
        for parameter in (*self.exit.parameters(), *self.subpixel_exit.parameters()):
            nn.init.zeros_(parameter)  # so a new network gives zeros

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padding = (0, -width % 4, 0, -height % 4)  # two halvings
        entered = self.entry(functional.pad(4 * images - 2, padding, mode="replicate"))
        halved = self.down1(entered)
        lowest = self.middle(self.down2(halved))
        half = self.up1(torch.cat((self.doubled(lowest), halved), 1))
        full = self.up2(torch.cat((self.doubled(half), entered), 1))
        directions = self.exit(full) + functional.pixel_shuffle(self.subpixel_exit(half), 2)
        return torch.tanh(directions)[..., :height, :width]


def _block(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(layer, nn.GroupNorm(1, outputs, affine=False), nn.LeakyReLU(0.1))


@dataclass(frozen=True, eq=False)
class Perturber(LinfAttack):
    """Add what a network fitted for this direction gives, scaled by the budget; it draws nothing and asks no score."""

    network: nn.Module
    epsilon: NotNegative = 4 / 255
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        with torch.no_grad():
            return _perturbed(copy.deepcopy(self.network).to(images.device), images.detach(), self.epsilon)


@dataclass(frozen=True)
class FACPA(FittedLinf):
    """Train a small U-Net whose output, within an L-infinity ball, moves the score of any image.

    Source: Shumitskaya et al., "Fast Adversarial CNN-based Perturbation Attack on No-Reference Image- and
    Video-Quality Metrics", 2023, arXiv:2305.15544. The architecture, the start at no perturbation, the loss (mean
    score in units of its own gradient), learning rate, number of passes and keeping the best pass are (ours).
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]; the network's tanh is multiplied by it
    learning_rate: Positive = 5e-3  # of Adam
    passes: Count = 20  # passes over the images, with one step per batch
    direction: Direction = +1

    def fit(self, score: ScoreFn, batches: Batches, generator: Generator) -> Perturber:
        """Return the network, drawn by the generator, after its best pass by mean score, no change being one."""
        first = next(batches_of(batches))
        # The mean L1 norm of the scores' gradients: what no change of the score's unit can hide.
        length = float(score_gradient(score, first).abs().flatten(1).sum(1).mean())
        scale = length if 0 < length < math.inf else 1.0
        # Drawn by this generator only; the global one is left as it was.
        with seeded(int(torch.randint(2**62, (), generator=generator, device=generator.device))):
            network = PerturbationNetwork().to(first.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        best = Perturber(copy.deepcopy(network).requires_grad_(False), self.epsilon, self.direction)
        best_mean = self.direction * mean_score(score, best, batches, generator)
        for _ in range(self.passes):
            for images in batches_of(batches):
                optimizer.zero_grad()
                with torch.enable_grad():
                    loss = -self.direction * score(_perturbed(network, images, self.epsilon)).mean() / scale
                    torch.autograd.backward(loss, inputs=list(network.parameters()))
                optimizer.step()
            current = replace(best, network=copy.deepcopy(network).requires_grad_(False))
            mean = self.direction * mean_score(score, current, batches, generator)
            if mean > best_mean:
                best, best_mean = current, mean
        return best


def _perturbed(network: nn.Module, images: Tensor, epsilon: float) -> Tensor:
    # The network stays in float32: its weights would not survive Adam in half precision.
    moved = images + epsilon * network(images.float()).to(images.dtype)
    return project_linf(moved, images, epsilon).clamp(0, 1)
