"""stAdv: a smooth flow field moves the pixels instead of changing their values."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.adam import Search, ascend, working
from iqa_armor.attacks.base import Direction, Norm, ScoreFn
from iqa_armor.limits import Count, Limited, NotNegative, Positive

# Rounds the corner of ‖·‖ at zero, where its gradient is not defined; small beside a visible displacement.
_CORNER = 1e-3


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
    # Weight τ of the flow's roughness; 0 lets every pixel go where it likes. From about 0.5 the best score may come
    # early, with a flow that is short rather than smooth.
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

    The flow u (N, 2, H, W) is in pixels, along x (columns) and y (rows). Zero keeps every bit, which a sampling grid in
    [-1, 1] does not.

    Source: Xiao et al., arXiv:1801.02612, equation 1; the border is (ours).
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

    It is 0 for a uniform flow (N, 2, H, W), and differentiable there too.

    Source: Xiao et al., arXiv:1801.02612, equation 4, where it is a sum; √(d² + c²) − c for d is (ours).
    """
    steps = (flow.diff(dim=2), flow.diff(dim=3))
    lengths = [(step.square().sum(1) + _CORNER**2).sqrt() - _CORNER for step in steps]
    # Every pair of neighbours counts twice, once from either side.
    return 2 * sum((each.flatten(1).sum(1) for each in lengths), flow.new_zeros(len(flow))) / flow[0, 0].numel()


def _neighbors(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels on both sides of positions (N, H, W), and the weight (N, 1, H, W) of the second."""
    # clamp() has no gradient at its bounds, where the border's pixels start.
    inside = torch.where(position < 0, 0.0, torch.where(position > size - 1, size - 1.0, position))
    # The last pixel is reached from its left neighbour, so that moving inward has a gradient there.
    first = inside.detach().floor().long().clamp(max=max(size - 2, 0))
    return first, (first + 1).clamp(max=size - 1), (inside - first).unsqueeze(1)
