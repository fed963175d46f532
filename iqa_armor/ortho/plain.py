"""Folded layers, written with operations that every exporter gets right: slices, plain convolutions, products."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.ortho.spectrum import Grid


def wrapped(maps: Tensor, margin: int) -> Tensor:
    """Return maps (N, C, H, W) continued circularly by `margin` ≤ min(H, W) pixels on every side."""
    if margin == 0:
        return maps
    # Explicit slices: exporters have translated the padding mode "circular" wrongly.
    maps = torch.cat([maps[..., -margin:, :], maps, maps[..., :margin, :]], dim=-2)
    return torch.cat([maps[..., -margin:], maps, maps[..., :margin]], dim=-1)


class PlainConv2d(nn.Module):
    """A circular convolution by a fixed kernel (C_out, C_in, k, k) and bias (C_out,)."""

    def __init__(self, kernel: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.kernel, self.bias = nn.Buffer(kernel), nn.Buffer(bias)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.conv2d(wrapped(maps, self.kernel.shape[-1] // 2), self.kernel, self.bias)


class PlainCayley(nn.Module):
    """A Cayley convolution for maps of one size, in real arithmetic: DFTs and (I + A)⁻¹ are matrix products.

    The inverse is complex (F, C_in, C_in) at the frequencies of `grid`, the kernel V (C_out − C_in, C_in, k, k).
    """

    def __init__(self, inverse: Tensor, kernel: Tensor, bias: Tensor, *, grid: Grid) -> None:
        super().__init__()
        self.size = height, width = grid.height, grid.width
        half = width // 2 + 1
        rows, columns = _angles(height, height), _angles(width, half)
        # Every column of the half spectrum but the first and, for even W, the last stands for its conjugate too.
        weights = (2 - (2 * torch.arange(half) % width == 0).double()) / (height * width)

        def kept(value: Tensor) -> nn.Buffer:
            placed = value.to(kernel.device, kernel.dtype) if value.is_floating_point() else value
            return nn.Buffer(placed.clone())

        self.operator = kept(torch.cat([inverse.real, inverse.imag], dim=1))
        self.kernel, self.bias = kept(kernel), kept(bias)
        self.kept, self.source = kept(grid.kept), kept(grid.source)
        self.signs = kept(torch.where(grid.mirrored, -1.0, 1.0))
        self.row_cosines, self.row_sines = kept(rows.cos()), kept(rows.sin())
        self.to_columns = kept(torch.cat([columns.cos(), -columns.sin()], dim=1))
        self.from_columns = kept(torch.cat([columns.cos() * weights, -columns.sin() * weights], dim=1).T.contiguous())

    def forward(self, maps: Tensor) -> Tensor:
        solved = self._inverse(self._solve(self._transform(maps)))
        upper = 2 * solved - maps
        if not len(self.kernel):
            return upper + self.bias.view(-1, 1, 1)
        lower = functional.conv2d(wrapped(solved, self.kernel.shape[-1] // 2), -2 * self.kernel)
        return torch.cat([upper, lower], dim=1) + self.bias.view(-1, 1, 1)

    def _transform(self, maps: Tensor) -> Tensor:
        """Return the kept frequencies (F, C, 2N) of maps (N, C, H, W), real parts before imaginary ones."""
        # e^{−iφ}(a + ib) = (cos φ a + sin φ b) + i(cos φ b − sin φ a)
        real, imaginary = torch.split(maps @ self.to_columns, self.size[1] // 2 + 1, dim=-1)
        cosines, sines = self.row_cosines, self.row_sines
        spectrum = torch.stack([cosines @ real + sines @ imaginary, cosines @ imaginary - sines @ real])
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
        sides = self.size[0], self.size[1] // 2 + 1
        half = spectrum.index_select(3, self.source).reshape(2, -1, spectrum.shape[2], *sides)
        real, imaginary = half[0], half[1] * self.signs.view(self.size[0], -1)
        cosines, sines = self.row_cosines, self.row_sines
        rows = [cosines @ real - sines @ imaginary, cosines @ imaginary + sines @ real]
        return torch.cat(rows, dim=-1) @ self.from_columns


def _angles(size: int, count: int) -> Tensor:
    """Return 2π·p·f / size (size, count) in float64 for positions p and frequencies f < count."""
    turns = torch.outer(torch.arange(size), torch.arange(count)) % size
    return 2 * math.pi * turns.double() / size


class SquarePool(nn.Module):
    """Adaptive average pooling of maps (N, C, H, W) to n × n, n = min(H, W), as two matrix products."""

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        side: Any = torch.sym_min(height, width)
        rows, columns = windows(height, side, like=maps), windows(width, side, like=maps)
        return (rows / rows.sum(0)).mT @ maps @ (columns / columns.sum(0))


def windows(inputs: int, outputs: int, *, like: Tensor) -> Tensor:
    """Return (inputs, outputs), 1 where a window of adaptive pooling, ⌊i·n/m⌋ to ⌈(i+1)·n/m⌉ − 1, holds an input."""
    # Both may be symbols; outputs are no more than inputs.
    place = torch.arange(inputs, device=like.device).unsqueeze(1)
    number = torch.arange(outputs, device=like.device)
    start, stop = number * inputs // outputs, ((number + 1) * inputs + outputs - 1) // outputs
    return ((start <= place) & (place < stop)).to(like.dtype)
