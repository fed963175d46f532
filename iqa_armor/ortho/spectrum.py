"""The resolvent (I + A)⁻¹ of a circular convolution A, one complex system per frequency."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Complex numbers worked on at once, so that the spectrum itself is the only large tensor: on a processor what
# its cache holds, on an accelerator what keeps it busy.
CHUNK = 2**20
ACCELERATOR_CHUNK = 2**26


@dataclass(frozen=True)
class Grid:
    """Frequencies of real maps (H, W) that determine all others.

    The half spectrum still holds its first and (for even W) last column twice, as conjugates; those
    rows are left out too.

    Args:
        height: Rows of the map.
        width: Columns of the map.
        device: Where the index tensors live.
    """

    height: int
    width: int
    device: torch.device

    @cached_property
    def _entries(self) -> list[tuple[int, int]]:
        """Row and column of every entry of the half spectrum."""
        return [(row, column) for row in range(self.height) for column in range(self.width // 2 + 1)]

    def _is_mirrored(self, row: int, column: int) -> bool:
        return 2 * column % self.width == 0 and 2 * row > self.height

    @cached_property
    def positions(self) -> list[tuple[int, int]]:
        """Row and column of the F kept frequencies."""
        return [entry for entry in self._entries if not self._is_mirrored(*entry)]

    @cached_property
    def kept(self) -> Tensor:
        """Indices of the kept entries in the flat half spectrum, (F,)."""
        columns = self.width // 2 + 1
        return torch.tensor([row * columns + column for row, column in self.positions], device=self.device)

    @cached_property
    def mirrored(self) -> Tensor:
        """Which entries of the half spectrum are conjugates of kept ones, boolean (H · (W // 2 + 1),)."""
        return torch.tensor([self._is_mirrored(*entry) for entry in self._entries], device=self.device)

    @cached_property
    def source(self) -> Tensor:
        """For every entry of the half spectrum, which kept frequency it equals or mirrors."""
        number = {position: i for i, position in enumerate(self.positions)}
        origins = (
            (self.height - row if self._is_mirrored(row, column) else row, column) for row, column in self._entries
        )
        return torch.tensor([number[origin] for origin in origins], device=self.device)

    def angles(self, reach: int) -> Tensor:
        """Return ω·τ (F, T) in float64 for the T offsets τ in (−reach..reach)², row by row."""
        row, column = torch.tensor(self.positions, device=self.device).T
        offsets = torch.arange(-reach, reach + 1, device=self.device)
        down, right = (grid.flatten() for grid in torch.meshgrid(offsets, offsets, indexing="ij"))
        turns_down = torch.outer(row, down) % self.height / self.height
        turns_right = torch.outer(column, right) % self.width / self.width
        return 2 * math.pi * (turns_down.double() + turns_right.double())

    def forward(self, maps: Tensor) -> Tensor:
        """Return real maps (N, C, H, W) as columns (F, C, N) of the kept frequencies."""
        spectrum: Tensor = torch.fft.rfft2(maps).flatten(2)
        return spectrum.index_select(2, self.kept).permute(2, 1, 0)

    def inverse(self, columns: Tensor) -> Tensor:
        """Return the real maps (N, C, H, W) of columns (F, C, N)."""
        spectrum = columns.permute(2, 1, 0).index_select(2, self.source)
        spectrum = torch.where(self.mirrored, spectrum.conj(), spectrum)
        half = spectrum.reshape(*spectrum.shape[:2], self.height, self.width // 2 + 1)
        maps: Tensor = torch.fft.irfft2(half, s=(self.height, self.width))
        return maps


@dataclass(frozen=True)
class Factor:
    """LU factors of I + A at the kept frequencies of a map size.

    Args:
        grid: The frequencies.
        matrices: Packed factors, complex (F, C, C).
        pivots: Their row exchanges (F, C).
    """

    grid: Grid
    matrices: Tensor
    pivots: Tensor

    def solve(self, maps: Tensor, *, is_adjoint: bool = False) -> Tensor:
        """Return (I + A)⁻¹ (or its transpose) applied to maps (N, C, H, W)."""
        columns = self.grid.forward(maps)
        return self.grid.inverse(torch.linalg.lu_solve(self.matrices, self.pivots, columns, adjoint=is_adjoint))


def factorize(kernel: Tensor, height: int, width: int) -> Factor:
    """Return I + A at the frequencies of maps (height, width), ready to be solved against.

    Args:
        kernel: Kernel (C, C, s, s) of A, s odd; where it is larger than the map, it wraps.
        height: Rows of the map.
        width: Columns of the map.
    """
    grid = Grid(height, width, kernel.device)
    channels, count = len(kernel), len(grid.positions)
    matrices = kernel.new_empty(count, channels, channels, dtype=kernel.dtype.to_complex())
    matrices = matrices.mT  # LAPACK reads columns: no copy at every solve
    exchanges = torch.empty(count, channels, dtype=torch.int32, device=kernel.device)
    flags = torch.empty(count, dtype=torch.int32, device=kernel.device)
    for part, system in _systems(kernel, grid):
        _factor_into(system, (matrices[part], exchanges[part], flags[part]))
    return Factor(grid, matrices, exchanges)


def inverses(kernel: Tensor, grid: Grid) -> Iterator[tuple[slice, Tensor]]:
    """Yield (I + A)⁻¹, complex (f, C, C), for consecutive slices of the kept frequencies.

    Args:
        kernel: As in `factorize`.
        grid: The frequencies.
    """
    for part, system in _systems(kernel, grid):
        lu, pivots = torch.empty_like(system), system.new_empty(system.shape[:2], dtype=torch.int32)
        _factor_into(system, (lu, pivots, pivots.new_empty(len(pivots))))
        identity = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)
        yield part, torch.linalg.lu_solve(lu, pivots, identity.expand_as(lu))


def _factor_into(systems: Tensor, out: tuple[Tensor, Tensor, Tensor]) -> None:
    """Write LU factors, pivots and flags of matrices (f, C, C).

    On a processor one by one: after `torch.set_num_threads`, PyTorch's batched factorization runs MKL's from
    several threads at once and returns wrong factors above some 150 channels without a word
    (https://github.com/pytorch/pytorch/issues/141358).
    """
    if systems.device.type != "cpu":
        torch.linalg.lu_factor_ex(systems, out=out)
        return
    for each in zip(systems, *out, strict=True):
        torch.linalg.lu_factor_ex(each[0], out=each[1:])


def _systems(kernel: Tensor, grid: Grid) -> Iterator[tuple[slice, Tensor]]:
    """Yield I + A (f, C, C), columns contiguous, for consecutive slices of the kept frequencies.

    The transform is a product with the DFT matrix: kernels have few taps, and real ones fold onto half of
    them, since Σ_τ a(τ) e^{iωτ} = Σ_τ≥0 cos(ωτ)(a(τ) + a(−τ)) + i sin(ωτ)(a(τ) − a(−τ)).
    """
    channels, limit = len(kernel), CHUNK if kernel.device.type == "cpu" else ACCELERATOR_CHUNK
    step = max(1, limit // channels**2)
    taps = kernel.flatten(2).permute(2, 1, 0).reshape(-1, channels**2)  # transposed, for LAPACK
    half = len(taps) // 2 + 1
    even, odd = (taps + taps.flip(0))[:half], (taps - taps.flip(0))[:half]
    even[-1] /= 2
    even[-1].view(channels, channels).diagonal().add_(1)
    angles = grid.angles(kernel.shape[-1] // 2)[:, :half]
    cosines, sines = angles.cos().to(kernel.dtype), angles.sin().to(kernel.dtype)
    for start in range(0, len(angles), step):
        part = slice(start, start + step)
        system = torch.complex(cosines[part] @ even, sines[part] @ odd)
        yield part, system.view(-1, channels, channels).mT
