"""Attacks of one step, hidden in texture or smoothed."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.adam import working
from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.attacks.pgd import contrast_map
from iqa_armor.attacks.scores import (
    climb,
    divide_by_norm,
    expectation,
    linf_box,
    per_image,
    project_linf,
    score_gradient,
)
from iqa_armor.limits import Count, NotNegative, Positive
from iqa_armor.randomness import drawn_from


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
    # Local contrast from which a pixel takes the whole step; less takes proportionally less.
    full_contrast: Positive = 0.04
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
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(change) * kept).real
    return filtered


@dataclass(frozen=True)
class SEGA(LinfAttack):
    """Move the score of an image by one step up the smoothed gradients of source models.

    Source: Liu et al., "SEGA: A Transferable Signed Ensemble Gaussian Black-Box Attack against No-Reference Image
    Quality Assessment Models", arXiv:2509.18546: gradients of several sources, smoothed by a Gaussian, together stand
    for that of the target; a filter mask takes away what would be seen. (ours), read from its abstract: each source's
    gradient is divided by its L1 norm before they are added; the mask goes by `contrast_map`; σ, draws and share.
    """

    epsilon: NotNegative = 8 / 255  # length of the step, pixels being in [0, 1]
    noise: NotNegative = 0.03  # standard deviation σ of the Gaussian that gradients are smoothed by, in the same units
    samples: Count = 8  # number of draws of it
    # Share of the pixels that change: those around which images have most contrast.
    kept: Annotated[float, "(0, 1]"] = 0.9
    direction: Direction = +1
    # Scores of the models that are known; those of the attacked model where there are none. Beside a baseline an
    # evaluation gives that of the baseline.
    sources: tuple[ScoreFn, ...] = field(default=(), repr=False)

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:
        images, generator = images.detach(), drawn_from(generator, images)

        def slope(source: ScoreFn) -> Tensor:
            def noisy(batch: Tensor) -> Tensor:
                drawn = torch.randn(batch.shape, generator=generator, device=generator.device)
                return source(batch + self.noise * drawn.to(batch))

            return divide_by_norm(score_gradient(expectation(noisy, self.samples), images), order=1)

        total = torch.stack([slope(source) for source in self.sources or (score,)]).sum(0)
        contrast = contrast_map(images)
        ordered = contrast.flatten(1).sort(descending=True).values
        mask = contrast >= per_image(ordered[:, math.ceil(self.kept * ordered.shape[1]) - 1])
        step = self.direction * self.epsilon * total.sign().to(images)
        return torch.clamp(images + step * mask, *linf_box(images, self.epsilon))
