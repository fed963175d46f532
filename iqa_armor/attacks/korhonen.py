"""Korhonen and You: Adam on a perturbation that is strong at edges and weak elsewhere."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.attacks.adam import Search, ascend, working
from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.limits import Count, NotNegative, Positive

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
