"""The explicit inverse (I + A)⁻¹ of a circular convolution, laid out to be read as fast as memory allows."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from iqa_armor.ortho.spectrum import Grid, grid_of, inverses


@dataclass(frozen=True)
class Inverse:
    """(I + A)⁻¹ at the kept frequencies of a map size, dearer to make than LU factors and cheaper to use.

    Tables are real (F, B, C, 2C / B): row d of a frequency's blocks, side by side, is column d of the inverse, its real
    parts before its imaginary ones.
    """

    grid: Grid
    tables: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return self.tables.nbytes

    def solve(self, maps: Tensor, *, is_adjoint: bool = False) -> Tensor:
        """Return (I + A)⁻¹ (or its transpose) applied to maps (N, C, H, W)."""
        columns = self.grid.forward(maps)
        return self.grid.inverse(self._adjoint(columns) if is_adjoint else self._product(columns))

    def _product(self, columns: Tensor) -> Tensor:
        """Return M x for complex columns (F, C, N), of the sums of the tables' rows weighted by Re x and Im x."""
        frequencies, channels, count = columns.shape
        rows = torch.view_as_real(columns.contiguous()).permute(0, 3, 2, 1)  # (F, Re and Im, N, C)
        rows = rows.reshape(frequencies, 1, 2 * count, channels)
        is_single = count == 1 and rows.device.type == "cpu"
        sums = self._sum_rows(rows) if is_single else rows @ self.tables
        sums = sums.transpose(1, 2).reshape(frequencies, 2, count, 2, channels)
        (real_real, real_imaginary), (imaginary_real, imaginary_imaginary) = (part.unbind(2) for part in sums.unbind(1))
        return torch.complex(real_real - imaginary_imaginary, real_imaginary + imaginary_real).mT

    def _sum_rows(self, rows: Tensor) -> Tensor:
        """Return `rows @ tables` for one image, (F, B, 2, 2C / B).

        That is bound by reading the tables, and a weighted sum of table rows is what an embedding bag is: on a
        processor its code reads almost twice as fast as that of matrix products. A block stays in the cache for
        both sums.
        """
        frequencies, blocks, channels, width = self.tables.shape
        weights = rows.expand(frequencies, blocks, 2, channels).reshape(-1)
        table = self.tables.view(-1, width)
        places, starts = self._bags
        sums = functional.embedding_bag(places, table, starts, mode="sum", per_sample_weights=weights)
        return sums.view(frequencies, blocks, 2, width)

    @cached_property
    def _bags(self) -> tuple[Tensor, Tensor]:
        """The numbers of the table rows of all sums, and where those of each begin."""
        frequencies, blocks, channels, _ = self.tables.shape
        rows = torch.arange(frequencies * blocks * channels, dtype=torch.int32)
        places = rows.view(-1, 1, channels).expand(-1, 2, channels).reshape(-1)
        return places, torch.arange(0, len(places), channels, dtype=torch.int32)

    def _adjoint(self, columns: Tensor) -> Tensor:
        """Return Mᴴ g for complex columns (F, C, N)."""
        real, imaginary = columns.real.mT, columns.imag.mT
        rows = torch.cat([torch.cat([real, imaginary], -1), torch.cat([imaginary, -real], -1)], 1)
        split = torch.unflatten(rows, -1, (self.tables.shape[1], -1)).transpose(1, 2)  # (F, B, 2N, 2C / B)
        sums = (split @ self.tables.mT).sum(1)
        return torch.complex(*sums.chunk(2, dim=1)).mT


def invert(kernel: Tensor, height: int, width: int) -> Inverse:
    """Return (I + A)⁻¹ at the frequencies of maps (height, width), for a kernel as in `factorize`."""
    grid, channels = grid_of(height, width, kernel.device), len(kernel)
    blocks = 4 if channels % 2 == 0 else 2
    tables = kernel.new_empty(len(grid.kept), blocks, channels, 2 * channels // blocks)
    for part, inverse in inverses(kernel, grid):
        rows = torch.cat([inverse.real, inverse.imag], dim=1).mT
        tables[part] = torch.unflatten(rows, -1, (blocks, -1)).transpose(1, 2)
    return Inverse(grid, tables)
