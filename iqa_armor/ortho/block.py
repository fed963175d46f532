"""The RobustBlock on maps and on a transformer's tokens, and its start as a projection."""

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

    The block as a whole is *not* norm preserving: its `reduction` is an ordinary 1×1 convolution C → ⌊C/2⌋ with bias.
    Only the part after it is, the circular 3×3 convolution `orthogonal` ⌊C/2⌋ → C with bias (with `aol`: it never
    increases norms). The backend that makes it is a name in `BACKENDS` or of an installed plug-in; the pool "square"
    averages H × W to n × n, n = min(H, W), as the paper does, "none" keeps H × W. A ValueError refuses others, and
    fewer channels than 2.

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
        if not self.reduction.weight.is_meta:  # as in AOC: for a QR without values torch 2.10 imports its compiler
            nn.init.orthogonal_(self.reduction.weight, gain=math.sqrt(channels / (channels // 2)))
        nn.init.zeros_(self.reduction.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, n, n), or (N, C, H, W) unpooled, of features (N, C, H, W); a ValueError refuses empty ones."""
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
    """Return maps (N, C, H, W) averaged to n × n, n = min(H, W), as `adaptive_avg_pool2d` does."""
    height, width = features.shape[-2:]
    if height == width:
        return features
    if torch.compiler.is_compiling():  # sizes may be symbols there
        return functional.adaptive_avg_pool2d(features, min(height, width))
    # A product is several times faster on a processor, and its gradient on an accelerator is the same at every run.
    inside = windows(max(height, width), min(height, width), like=features)
    if height < width:
        return features @ inside / inside.sum(0)
    return inside.T @ features / inside.sum(0)[:, None]


class TokenBlock(nn.Module):
    """Apply a RobustBlock to the tokens (N, extra + h·w, C) of a transformer, seen as maps (N, C, h, w).

    Leading tokens that stand for no place (class, distillation, registers) pass by unchanged; maps whose channels come
    last, (N, h, w, C), are taken too. What follows counts on as many tokens, so nothing is pooled, which on a square
    grid is what square pooling does. The size is (h, w) of the grid; channels and backend are those of the block.

    Source: (ours); Meleshin et al., "Robustness as Architecture", arXiv:2506.04951, speak of convolutional maps only.
    """

    is_traced_whole = True  # one node of a graph

    def __init__(self, channels: int, *, size: tuple[int, int], extra: int = 0, backend: str = "cayley") -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 1 or extra < 0:
            raise ValueError(f"a token grid needs two positive sides and no fewer than 0 extra tokens: {size}, {extra}")
        self.channels, self.backend, self.extra = channels, backend, extra
        self.size = (int(size[0]), int(size[1]))
        self.block = RobustBlock(channels, backend=backend, pool="none")

    def maps(self, tokens: Tensor) -> Tensor:
        """Return the places (N, C, h, w) of tokens (N, extra + h·w, C) or (N, h, w, C)."""
        shape, (height, width) = tuple(tokens.shape), self.size
        expected = self.size if len(shape) == 4 else (self.extra + height * width,)
        if len(shape) not in (3, 4) or shape[1:] != (*expected, self.channels):
            raise ValueError(
                f"this TokenBlock takes tokens (N, {self.extra} + {height}·{width}, {self.channels}), got {shape}"
            )
        if tokens.ndim == 4:
            return tokens.permute(0, 3, 1, 2)
        places = tokens[:, self.extra :].transpose(1, 2)
        return places.reshape(*places.shape[:2], *self.size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same size, those of the grid protected."""
        maps = self.maps(tokens)
        if tokens.is_meta:  # no values, only a size
            return torch.empty_like(tokens)
        protected = self.block(maps)
        if tokens.ndim == 4:
            return protected.permute(0, 2, 3, 1)  # type: ignore[no-any-return]
        places = protected.flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : self.extra], places], dim=1)

    def extra_repr(self) -> str:
        return f"size={self.size}, extra={self.extra}"


@torch.no_grad()
def initialize_identity(block: RobustBlock, features: Tensor) -> None:
    """Set a block, in place, to x → P Pᵀ(x − μ) + μ, P the top principal directions of `features`.

    There are as many as the block's reduction has outputs, ⌊C/2⌋ in a block as built; with C of them the block is the
    identity. On square maps, or with pool "none", it computes the projection to rounding; every parameter can be
    trained on from there. The features (N, C, H, W) are what the block will stand on, for calibration images; a
    ValueError refuses features that are empty, not finite, or of another number of channels.

    Source: (ours), a principal component analysis over images and positions.
    """
    if features.ndim != 4 or features.shape[1] != block.channels or not features.numel():
        raise ValueError(f"features must be (N, {block.channels}, H, W), got {tuple(features.shape)}")
    if not torch.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinite values")
    device = block.reduction.weight.device
    directions, mean = principal_directions(features.to(device), block.orthogonal.in_channels)
    directions = block.orthogonal.aligned(directions)
    block.orthogonal.assign(directions)
    block.orthogonal.bias.copy_(mean)
    block.reduction.weight.copy_(directions.T[..., None, None])
    block.reduction.bias.copy_(-directions.T @ mean)  # type: ignore[union-attr]


def principal_directions(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` directions (C, count) of largest variance over all places of (N, C, H, W), and the mean (C,)."""
    samples = features.to(torch.promote_types(features.dtype, torch.float32)).movedim(1, 0).flatten(1)
    mean = samples.mean(1, dtype=torch.float64)
    centered = samples - mean.to(samples.dtype)[:, None]
    covariance = (centered @ centered.T).double() / centered.shape[1]
    directions: Tensor = torch.linalg.eigh(covariance).eigenvectors  # ascending eigenvalues
    return directions.flip(1)[:, :count], mean
