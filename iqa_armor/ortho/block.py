"""The RobustBlock: square pooling, a reduction to half the channels and an orthogonal convolution back."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.plain import SquarePool, windows

Pool = Literal["square", "none"]


class RobustBlock(nn.Module):
    """Replace maps (N, C, H, W) by maps of C channels that an orthogonal convolution made of ⌊C/2⌋.

    The block as a whole is *not* norm preserving: its reduction is an ordinary convolution. Only the part
    after it is, from ⌊C/2⌋ to C channels (with `aol`: it never increases norms).

    Args:
        channels: C, at least 2.
        backend: How the orthogonal convolution is made: a name in `BACKENDS` or of an installed plug-in.
        pool: "square" averages H × W to n × n, n = min(H, W), as the paper does; "none" keeps H × W.

    Attributes:
        reduction: 1×1 convolution C → ⌊C/2⌋ with bias.
        orthogonal: Circular 3×3 convolution ⌊C/2⌋ → C with bias.

    Raises:
        ValueError: If the channels are fewer than 2, or the backend or pool is unknown.

    Source: Meleshin et al., "Robustness as Architecture", arXiv:2506.04951, Section 3. (ours) 1×1 reduction,
    started with orthogonal rows of such length that the mean energy of its input is kept; 3×3 kernel.
    """

    is_traced_whole = True  # one node of a graph

    def __init__(self, channels: int, *, backend: str = "cayley", pool: Pool = "square") -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"a RobustBlock halves its channels and needs at least 2, got {channels}")
        if not BACKENDS.knows(backend):
            raise ValueError(f"backend must be one of {BACKENDS.summary()}, got {backend!r}")
        if pool not in get_args(Pool):
            raise ValueError(f"pool must be one of {', '.join(get_args(Pool))}, got {pool!r}")
        self.channels, self.backend, self.pool = channels, backend, pool
        self.reduction = nn.Conv2d(channels, channels // 2, 1)
        self.orthogonal = BACKENDS.read(backend)(channels // 2, channels)
        nn.init.orthogonal_(self.reduction.weight, gain=math.sqrt(channels / (channels // 2)))
        nn.init.zeros_(self.reduction.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, n, n), or (N, C, H, W) without pooling, of features (N, C, H, W).

        Raises ValueError if there are no images or no pixels, or the number of channels is another.
        """
        shape = tuple(features.shape)
        if len(shape) != 4 or shape[1] != self.channels:
            raise ValueError(f"this RobustBlock takes features (N, {self.channels}, H, W), got {shape}")
        if 0 in shape:
            raise ValueError(f"a RobustBlock needs at least one image and one pixel, got features {shape}")
        if features.is_meta:  # no values, only a size
            sides = (min(shape[2:]),) * 2 if self.pool == "square" else shape[2:]
            return features.new_empty(len(features), self.channels, *sides)
        if self.pool == "square":
            features = pool_square(features)
        return self.orthogonal(self.reduction(features))  # type: ignore[no-any-return]

    def plain(self, size: tuple[int, int]) -> nn.Sequential:
        """Return the block folded for maps that reach its orthogonal layer, behind the pooling, at `size` (H, W)."""
        pooling = [SquarePool()] if self.pool == "square" else []
        return nn.Sequential(*pooling, self.reduction, self.orthogonal.plain(size))

    def extra_repr(self) -> str:
        return f"{self.channels}, backend={self.backend!r}, pool={self.pool!r}"


def pool_square(features: Tensor) -> Tensor:
    """Return maps (N, C, H, W) averaged to n × n, n = min(H, W), as `adaptive_avg_pool2d` does.

    Only the longer side changes, so it is a product with one matrix of windows: several times faster on a
    processor, and its gradient on an accelerator is the same at every run.
    """
    height, width = features.shape[-2:]
    if height == width:
        return features
    if torch.compiler.is_compiling():  # sizes may be symbols there
        return functional.adaptive_avg_pool2d(features, min(height, width))
    inside = windows(max(height, width), min(height, width), like=features)
    if height < width:
        return features @ inside / inside.sum(0)
    return inside.T @ features / inside.sum(0)[:, None]
