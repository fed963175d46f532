"""Orthogonal layers written with operations that every exporter gets right: slices, plain convolutions, products."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.ortho import CayleyConv2d, FoldedConv2d, OrthogonalConv2d, RobustBlock
from iqa_armor.ortho.cayley import cayley_matrix
from iqa_armor.ortho.spectrum import Grid, inverses


def wrapped(maps: Tensor, margin: int) -> Tensor:
    """Return maps (N, C, H, W) continued circularly by `margin` ≤ min(H, W) pixels on every side.

    Explicit slices: exporters have translated the padding mode "circular" wrongly.
    """
    if margin == 0:
        return maps
    maps = torch.cat([maps[..., -margin:, :], maps, maps[..., :margin, :]], dim=-2)
    return torch.cat([maps[..., -margin:], maps, maps[..., :margin]], dim=-1)


class PlainConv2d(nn.Module):
    """A folded AOC or AOL convolution.

    Args:
        layer: Layer to copy; left untouched.
    """

    def __init__(self, layer: FoldedConv2d) -> None:
        super().__init__()
        folded = layer.folded()
        self.margin = layer.kernel_size // 2
        self.register_buffer("kernel", folded.weight.detach().clone())
        self.register_buffer("bias", layer.bias.detach().clone())

    kernel: Tensor
    bias: Tensor

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, C_out, H, W) of maps (N, C_in, H, W)."""
        return functional.conv2d(wrapped(maps, self.margin), self.kernel, self.bias)


class PlainCayley(nn.Module):
    """A Cayley convolution for maps of one size, in real arithmetic: DFTs and (I + A)⁻¹ are matrix products.

    It holds C_in² · 2F numbers for the F ≈ H·W/2 frequencies that determine real maps.

    Args:
        layer: Layer to copy; left untouched.
        size: (H, W) of the maps.
    """

    operator: Tensor
    kernel: Tensor
    bias: Tensor
    kept: Tensor
    source: Tensor
    signs: Tensor
    row_cosines: Tensor
    row_sines: Tensor
    to_columns: Tensor
    from_columns: Tensor

    def __init__(self, layer: CayleyConv2d, size: tuple[int, int]) -> None:
        super().__init__()
        weight = layer.weight.detach()
        grid = Grid(*size, weight.device)
        inverse = torch.cat([part for _, part in inverses(cayley_matrix(weight), grid)])
        self.size = size
        self.margin = layer.kernel_size // 2
        signs = torch.where(grid.mirrored, -1.0, 1.0).to(weight.dtype)
        rows = _angles(size[0], size[0])
        columns = _angles(size[1], size[1] // 2 + 1)
        # Every column of the half spectrum but the first and, for even W, the last stands for its conjugate too.
        is_own = 2 * torch.arange(size[1] // 2 + 1) % size[1] == 0
        weights = (2 - is_own.double()) / (size[0] * size[1])
        values = {
            "operator": torch.cat([inverse.real, inverse.imag], dim=1),
            "kernel": weight[layer.in_channels :].clone(),
            "bias": layer.bias.detach().clone(),
            "kept": grid.kept,
            "source": grid.source,
            "signs": signs,
            "row_cosines": rows.cos(),
            "row_sines": rows.sin(),
            "to_columns": torch.cat([columns.cos(), -columns.sin()], dim=1),
            "from_columns": torch.cat([columns.cos() * weights, -columns.sin() * weights], dim=1).T.contiguous(),
        }
        for name, value in values.items():
            self.register_buffer(name, value.to(weight.dtype) if value.is_floating_point() else value)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, C_out, H, W) of maps (N, C_in, H, W) of the one size."""
        solved = self._inverse(self._solve(self._transform(maps)))
        upper = 2 * solved - maps
        if not len(self.kernel):
            return upper + self.bias.view(-1, 1, 1)
        lower = functional.conv2d(wrapped(solved, self.margin), -2 * self.kernel)
        return torch.cat([upper, lower], dim=1) + self.bias.view(-1, 1, 1)

    def _transform(self, maps: Tensor) -> Tensor:
        """Return the kept frequencies (F, C, 2N) of maps (N, C, H, W), real parts before imaginary ones."""
        # e^{−iφ}(a + ib) = (cos φ a + sin φ b) + i(cos φ b − sin φ a)
        real, imaginary = torch.split(maps @ self.to_columns, self.size[1] // 2 + 1, dim=-1)
        spectrum = torch.stack(
            [
                self.row_cosines @ real + self.row_sines @ imaginary,
                self.row_cosines @ imaginary - self.row_sines @ real,
            ]
        )
        return spectrum.flatten(3).index_select(3, self.kept).permute(3, 2, 0, 1).flatten(2)

    def _solve(self, columns: Tensor) -> Tensor:
        """Return (I + A)⁻¹ of columns (F, C, 2N) as (2, N, C, F)."""
        count, channels = columns.shape[:2]
        products = torch.bmm(self.operator, columns).reshape(count, 2, channels, 2, -1)
        real = products[:, 0, :, 0] - products[:, 1, :, 1]
        imaginary = products[:, 0, :, 1] + products[:, 1, :, 0]
        return torch.stack([real, imaginary]).permute(0, 3, 2, 1)

    def _inverse(self, spectrum: Tensor) -> Tensor:
        """Return the maps (N, C, H, W) of the kept frequencies (2, N, C, F)."""
        half = spectrum.index_select(3, self.source).reshape(
            2, -1, spectrum.shape[2], self.size[0], self.size[1] // 2 + 1
        )
        real, imaginary = half[0], half[1] * self.signs.view(self.size[0], -1)
        rows = [
            self.row_cosines @ real - self.row_sines @ imaginary,
            self.row_cosines @ imaginary + self.row_sines @ real,
        ]
        return torch.cat(rows, dim=-1) @ self.from_columns


def _angles(size: int, count: int) -> Tensor:
    """Return 2π·p·f / size (size, count) in float64 for positions p and frequencies f < count."""
    turns = torch.outer(torch.arange(size), torch.arange(count)) % size
    return 2 * math.pi * turns.double() / size


class SquarePool(nn.Module):
    """Adaptive average pooling of maps (N, C, H, W) to n × n, n = min(H, W), as two matrix products."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, C, n, n)."""
        height, width = maps.shape[-2:]
        side = torch.sym_min(height, width)
        return averages(height, side, maps) @ maps @ averages(width, side, maps).mT


def averages(size: Any, count: Any, like: Tensor) -> Tensor:
    """Return the matrix (count, size) of adaptive pooling: row i averages ⌊i·size/count⌋ to ⌈(i+1)·size/count⌉ − 1.

    Args:
        size: Pixels, a number or a symbol.
        count: Averages, at most `size`, likewise.
        like: Tensor with the wanted type and device.
    """
    places = torch.arange(size, device=like.device)
    numbers = torch.arange(count, device=like.device).unsqueeze(1)
    first, after = numbers * size // count, ((numbers + 1) * size + count - 1) // count
    inside = (places >= first) & (places < after)
    matrix: Tensor = inside.to(like.dtype) / (after - first).to(like.dtype)
    return matrix


def plain_layer(layer: OrthogonalConv2d, size: tuple[int, int]) -> nn.Module:
    """Return a module that computes what `layer` does, on maps of `size` (for AOC and AOL: of any size).

    Raises:
        ValueError: If the layer is of an unknown kind.
    """
    if isinstance(layer, CayleyConv2d):
        return PlainCayley(layer, size)
    if isinstance(layer, FoldedConv2d):
        return PlainConv2d(layer)
    raise ValueError(f"no exportable form of a {type(layer).__name__} is known")


def plain_block(block: RobustBlock, size: tuple[int, int]) -> nn.Sequential:
    """Return what a RobustBlock computes; `size` is that of the maps which reach its orthogonal layer."""
    pooling = [SquarePool()] if block.pool == "square" else []
    return nn.Sequential(*pooling, block.reduction, plain_layer(block.orthogonal, size))
