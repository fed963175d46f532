"""Attacks that move pixels or recolor them: flows and color curves."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.attacks.base import Direction, Norm, ScoreFn
from iqa_armor.attacks.scores import Search, ascend, working
from iqa_armor.limits import Count, Limited, NotNegative, Positive

_CORNER = 1e-3  # rounds the corner of ‖·‖ at zero, where it has no gradient; small beside a visible displacement


@dataclass(frozen=True)
class StAdv(Limited):
    """Warp an image so that its predicted score moves, by a flow that is smooth and short.

    Source: Xiao et al., "Spatially Transformed Adversarial Examples", ICLR 2018, arXiv:1801.02612, Section 3; five
    iterations as in [RA] Meleshin et al., arXiv:2506.04951. (ours): Adam for L-BFGS, so that the images of a batch stay
    independent, and inner steps, of which L-BFGS has many; roughness is the mean over pixels of Σ‖u(p) − u(q)‖ / ε over
    their four neighbours q, not the sum, and gains are measured in the unit of `ascend`, so that τ fits every image
    size and score; the displacement is limited by projection; the iterate with the best score is kept.
    """

    norm: ClassVar[Norm] = "flow"
    epsilon: NotNegative = 1.0  # largest displacement of a pixel (Euclidean), in pixels
    # Weight τ of the flow's roughness; from about 0.5 the best score may come early, with a flow short, not smooth.
    smoothness: NotNegative = 0.2
    iterations: Count = 5  # outer iterations
    inner_steps: Count = 5  # gradients in each of them
    learning_rate: Positive = 0.2  # Adam's, in pixels
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        clean = images.detach().to(working(images.dtype))
        search = Search(
            start=clean.new_zeros(len(clean), 2, *clean.shape[2:]),
            render=lambda flow: warp(clean, flow),
            project=lambda flow: flow * (self.epsilon / flow.norm(dim=1, keepdim=True)).clamp(max=1),
            radius=self.epsilon,
            penalty=lambda flow, _: self.smoothness * roughness(flow) / self.epsilon,
        )
        steps = self.iterations * self.inner_steps
        return ascend(score, images, search, direction=self.direction, steps=steps, step_size=self.learning_rate)


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Return images (N, 3, H, W) whose pixel p is the bilinear sample of the input at p + u(p); the border is repeated.

    The flow u (N, 2, H, W) is in pixels, along x (columns) and y (rows); zero keeps every bit, unlike a sampling grid
    in [-1, 1]. Source: Xiao et al., arXiv:1801.02612, equation 1; the border is (ours).
    """
    height, width = images.shape[2:]
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    left, right, across = _neighbors(flow[:, 0] + columns, width)
    upper, lower, down = _neighbors(flow[:, 1] + rows, height)

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, index).reshape(images.shape)

    above = at(upper, left) * (1 - across) + at(upper, right) * across
    below = at(lower, left) * (1 - across) + at(lower, right) * across
    return above * (1 - down) + below * down


def roughness(flow: Tensor) -> Tensor:
    """Mean over pixels, (N,), of the summed distances between a pixel's displacement and its neighbours', in pixels.

    The flow is (N, 2, H, W). Source: Xiao et al., arXiv:1801.02612, eq. 4, where it is a sum; √(d² + c²) − c for d is
    (ours).
    """
    lengths = [(flow.diff(dim=dim).square().sum(1) + _CORNER**2).sqrt() - _CORNER for dim in (2, 3)]
    # Every pair of neighbours counts twice, once from either side.
    return 2 * sum((each.flatten(1).sum(1) for each in lengths), flow.new_zeros(len(flow))) / flow[0, 0].numel()


def _neighbors(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels on both sides of positions (N, H, W), and the weight (N, 1, H, W) of the second."""
    # clamp() has no gradient at its bounds, where the border's pixels start.
    inside = torch.where(position < 0, 0.0, torch.where(position > size - 1, size - 1.0, position))
    # The last pixel is reached from its left neighbour, so that moving inward has a gradient there.
    first = inside.detach().floor().long().clamp(max=max(size - 2, 0))
    return first, (first + 1).clamp(max=size - 1), (inside - first).unsqueeze(1)


PIECES = 64
_LEAST = 1e-6  # rise of a piece that keeps a curve increasing


@dataclass(frozen=True)
class AdvCF(Limited):
    """Move the predicted score of an image by an increasing piecewise linear curve, from 0 to 1, for each channel.

    Source: Zhao et al., "Adversarial Color Enhancement", BMVC 2020, arXiv:2002.01008, Section 3, with 64 pieces; used
    against quality models in Zhao, "Fooling Blind Image Quality Assessment by Optimizing a Human-Understandable Color
    Filter", MediaEval 2020. (ours): `strength`; projecting after every step; keeping the iterate with the best score.
    """

    norm: ClassVar[Norm] = "none"
    epsilon: ClassVar[float] = math.inf  # no pixel budget limits the change
    strength: Annotated[float, "[0, 1]"] = 0.05  # farthest from the identity; 0.05 passes for taste, 0.1 shows
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
    """Return images (N, 3, H, W) in [0, 1] after curves by the rises of their pieces, (N, 3, 64) ≥ 0 in any unit."""
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
