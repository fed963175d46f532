"""AdvCF: a color curve, the same for the whole image, that moves the score."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.attacks.adam import Search, ascend, working
from iqa_armor.attacks.base import Direction, Norm, ScoreFn
from iqa_armor.limits import Count, Limited, Positive

PIECES = 64
_LEAST = 1e-6  # rise of a piece that keeps a curve increasing


@dataclass(frozen=True)
class AdvCF(Limited):
    """Move the predicted score of an image by an increasing piecewise linear curve for each color channel.

    No pixel budget limits the change, so `epsilon` is a constant: infinite. Curves start at 0 and end at 1.

    Source: Zhao et al., "Adversarial Color Enhancement", BMVC 2020, arXiv:2002.01008, Section 3, with 64 pieces; used
    against quality models in Zhao, "Fooling Blind Image Quality Assessment by Optimizing a Human-Understandable Color
    Filter", MediaEval 2020. (ours): `strength`; projecting after every step; keeping the iterate with the best score.
    """

    norm: ClassVar[Norm] = "none"
    epsilon: ClassVar[float] = math.inf
    # How far a curve may be from the identity, in [0, 1]; 0.05 passes for a camera's taste in colors, 0.1 shows, 1
    # limits nothing.
    strength: Annotated[float, "[0, 1]"] = 0.05
    learning_rate: Positive = 0.1  # Adam's for the rise of a piece, in units of the identity's rise, 1/64
    steps: Count = 20  # number of gradients
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        clean = images.detach().to(working(images.dtype))
        search = Search(
            start=clean.new_ones(*clean.shape[:2], PIECES),
            render=lambda rises: apply_curve(clean, rises),
            project=lambda rises: project_curve(rises, self.strength),
            radius=1.0,
        )
        return ascend(score, images, search, direction=self.direction, steps=self.steps, step_size=self.learning_rate)


def apply_curve(images: Tensor, rises: Tensor) -> Tensor:
    """Return images (N, 3, H, W) in [0, 1] after the curves of their channels; the identity keeps every bit.

    `rises` are those of every piece of a curve, (N, 3, 64), in any unit, not negative.
    """
    # Scaled here too, for the gradient's sake: else all rises might want up, and projecting would undo the step.
    rises = rises / rises.mean(2, keepdim=True)
    away = functional.pad((rises - 1).cumsum(2) / PIECES, (1, 0))  # curve minus identity, at 65 knots
    position = images.flatten(2) * PIECES
    piece = position.floor().clamp(0, PIECES - 1)
    here, following = away.gather(2, piece.long()), away.gather(2, piece.long() + 1)
    return images + torch.lerp(here, following, position - piece).reshape(images.shape)


def project_curve(rises: Tensor, strength: float) -> Tensor:
    """Return curves (N, 3, 64) that increase from 0 to 1 and are nowhere farther than strength from the identity."""
    rises = rises.clamp(min=_LEAST)
    identity = torch.arange(PIECES + 1, dtype=rises.dtype, device=rises.device) / PIECES
    curve = functional.pad((rises / rises.sum(2, keepdim=True)).cumsum(2), (1, 0))
    # Between increasing bounds an increasing curve stays one.
    return curve.clamp(identity - strength, identity + strength).diff(dim=2) * PIECES
