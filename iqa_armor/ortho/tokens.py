"""The RobustBlock on the token grid of a transformer."""

import math

import torch
from torch import Tensor, nn

from iqa_armor.ortho.block import RobustBlock


class TokenBlock(nn.Module):
    """Apply a RobustBlock to the tokens (N, extra + h·w, C) of a transformer, seen as maps (N, C, h, w).

    Leading tokens that stand for no place (class, distillation, registers) pass by unchanged. Maps whose channels
    come last, (N, h, w, C), are taken too. The block keeps the grid, since what follows counts on as many tokens;
    so nothing is pooled, which on a square grid is what square pooling does.

    Args:
        channels: C, at least 2.
        size: (h, w) of the grid.
        extra: Number of leading tokens outside the grid.
        backend: How the orthogonal convolution is made.

    Attributes:
        block: The RobustBlock.

    Raises:
        ValueError: If the grid is empty, the leading tokens fewer than none, or the block refuses its arguments.

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
        self._check(tuple(tokens.shape))
        if tokens.ndim == 4:
            return tokens.permute(0, 3, 1, 2)
        places = tokens[:, self.extra :].transpose(1, 2)
        return places.reshape(*places.shape[:2], *self.size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same size, those of the grid protected."""
        if tokens.is_meta:  # no values, only a size
            self._check(tuple(tokens.shape))
            return torch.empty_like(tokens)
        protected = self.block(self.maps(tokens))
        if tokens.ndim == 4:
            return protected.permute(0, 2, 3, 1)  # type: ignore[no-any-return]
        places = protected.flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : self.extra], places], dim=1)

    def extra_repr(self) -> str:
        return f"size={self.size}, extra={self.extra}"

    def _check(self, shape: tuple[int, ...]) -> None:
        expected = self.size if len(shape) == 4 else (self.extra + math.prod(self.size),)
        if len(shape) not in (3, 4) or shape[1:] != (*expected, self.channels):
            height, width = self.size
            raise ValueError(
                f"this TokenBlock takes tokens (N, {self.extra} + {height}·{width}, {self.channels}), got {shape}"
            )
