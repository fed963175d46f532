"""IOI: one step of the gradient's sign, without its low frequencies and weaker where images are flat."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.adam import working
from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.attacks.climb import climb
from iqa_armor.attacks.mifgsm import contrast_map
from iqa_armor.attacks.projection import project_linf
from iqa_armor.limits import NotNegative, Positive


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
