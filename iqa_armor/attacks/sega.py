"""SEGA: the sign of smoothed gradients of other models, which the attacked one is not asked for."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.attacks.mifgsm import contrast_map
from iqa_armor.attacks.projection import divide_by_norm, linf_box, per_image
from iqa_armor.attacks.scores import expectation, score_gradient
from iqa_armor.limits import Count, NotNegative
from iqa_armor.randomness import drawn_from


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
