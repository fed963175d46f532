"""The resolvent (I + A)⁻¹ of a circular convolution A, one complex system per frequency."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from iqa_armor.ortho.cache import may_keep_tensors

# Complex numbers worked on at once, so that the spectrum itself is the only large tensor: on a processor what
# its cache holds, on an accelerator what keeps it busy.
CHUNK = 2**20
ACCELERATOR_CHUNK = 2**26


@dataclass(frozen=True, eq=False)
class Grid:
    """Frequencies of real maps (H, W) that determine all others, as `grid_of` gives them."""

    # The half spectrum still holds its first and (for even W) last column twice, as conjugates, which are left out too.
    height: int
    width: int
    mirrored: Tensor  # which entries of the half spectrum are conjugates of kept ones, boolean (H · (W // 2 + 1),)
    kept: Tensor  # indices (F,) of the kept entries in the flat half spectrum
    source: Tensor  # for every entry of the half spectrum, which kept frequency it equals or mirrors

    def forward(self, maps: Tensor) -> Tensor:
        """Return real maps (N, C, H, W) as columns (F, C, N) of the kept frequencies."""
        spectrum: Tensor = torch.fft.rfft2(maps).flatten(2)
        return spectrum.index_select(2, self.kept).permute(2, 1, 0)

    def inverse(self, columns: Tensor) -> Tensor:
        """Return the real maps (N, C, H, W) of columns (F, C, N)."""
        spectrum = columns.permute(2, 1, 0).index_select(2, self.source)
        spectrum = torch.where(self.mirrored, spectrum.conj(), spectrum)
        half = spectrum.reshape(*spectrum.shape[:2], self.height, self.width // 2 + 1)
        return torch.fft.irfft2(half, s=(self.height, self.width))  # type: ignore[no-any-return]


def grid_of(height: int, width: int, device: torch.device) -> Grid:
    """Return the frequencies of maps (height, width), made once per device."""
    make = _grid if may_keep_tensors() else _grid.__wrapped__
    return make(height, width, device)


@lru_cache(maxsize=64)
def _grid(height: int, width: int, device: torch.device) -> Grid:
    columns = width // 2 + 1
    row, column = np.divmod(np.arange(height * columns), columns)
    mirrored = (2 * column % width == 0) & (2 * row > height)
    number = (~mirrored).cumsum() - 1  # of an entry among those kept
    source = np.where(mirrored, number[(height - row) % height * columns + column], number)
    # A tensor made in inference mode could take no part in a backward pass.
    with torch.inference_mode(False):
        tensors = [torch.tensor(values, device=device) for values in (mirrored, np.flatnonzero(~mirrored), source)]
    return Grid(height, width, *tensors)


def waves(grid: Grid, reach: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cos ωτ and sin ωτ, each (F, T), for the first T = ((2 · reach + 1)² + 1) / 2 offsets τ."""
    make = _kept_waves if may_keep_tensors() else _kept_waves.__wrapped__
    return make(grid, reach, dtype)


@lru_cache(maxsize=16)
def _kept_waves(grid: Grid, reach: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    columns = grid.width // 2 + 1
    with torch.inference_mode(False):
        row, column = torch.div(grid.kept, columns, rounding_mode="floor"), grid.kept % columns
        offsets = torch.arange(-reach, reach + 1, device=grid.kept.device)
        down, right = (axis.flatten() for axis in torch.meshgrid(offsets, offsets, indexing="ij"))
        turns_down = (torch.outer(row, down) % grid.height).double() / grid.height
        turns_right = (torch.outer(column, right) % grid.width).double() / grid.width
        angles = (2 * math.pi * (turns_down + turns_right))[:, : (2 * reach + 1) ** 2 // 2 + 1]
        return angles.cos().to(dtype), angles.sin().to(dtype)


@dataclass(frozen=True)
class Factor:
    """LU factors of I + A at the kept frequencies of a map size."""

    grid: Grid
    matrices: Tensor  # packed factors, complex (F, C, C)
    pivots: Tensor  # their row exchanges (F, C)

    def solve(self, maps: Tensor, *, is_adjoint: bool = False) -> Tensor:
        """Return (I + A)⁻¹ (or its transpose) applied to maps (N, C, H, W)."""
        columns = self.grid.forward(maps)
        return self.grid.inverse(torch.linalg.lu_solve(self.matrices, self.pivots, columns, adjoint=is_adjoint))


def factorize(kernel: Tensor, height: int, width: int) -> Factor:
    """Return I + A at the frequencies of maps (height, width); the kernel of A (C, C, s, s), s odd, may exceed them."""
    grid = grid_of(height, width, kernel.device)
    channels, count = len(kernel), len(grid.kept)
    matrices = kernel.new_empty(count, channels, channels, dtype=kernel.dtype.to_complex())
    matrices = matrices.mT  # LAPACK reads columns: no copy at every solve
    exchanges = kernel.new_empty(count, channels, dtype=torch.int32)
    for part, lu, pivots in _factors(kernel, grid):
        matrices[part], exchanges[part] = lu, pivots
    return Factor(grid, matrices, exchanges)


def inverses(kernel: Tensor, grid: Grid) -> Iterator[tuple[slice, Tensor]]:
    """Yield (I + A)⁻¹, complex (f, C, C), for consecutive slices of the kept frequencies."""
    for part, lu, pivots in _factors(kernel, grid):
        identity = torch.eye(lu.shape[-1], dtype=lu.dtype, device=lu.device)
        yield part, torch.linalg.lu_solve(lu, pivots, identity.expand_as(lu))


def _factors(kernel: Tensor, grid: Grid) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield LU factors (f, C, C) and pivots (f, C) of I + A for consecutive slices of the kept frequencies."""
    for part, system in _systems(kernel, grid):
        lu, pivots = torch.empty_like(system), system.new_empty(system.shape[:2], dtype=torch.int32)
        out = lu, pivots, pivots.new_empty(len(pivots))
        # After `torch.set_num_threads`, PyTorch's batched factorization runs MKL's from several threads at once and
        # returns wrong factors above some 150 channels without a word (https://github.com/pytorch/pytorch/issues/141358).
        each = [(system, *out)] if system.device.type != "cpu" else zip(system, *out, strict=True)
        for matrix, *parts in each:
            torch.linalg.lu_factor_ex(matrix, out=tuple(parts))
        yield part, lu, pivots


def _systems(kernel: Tensor, grid: Grid) -> Iterator[tuple[slice, Tensor]]:
    """Yield I + A (f, C, C), columns contiguous, for consecutive slices of the kept frequencies."""
    channels, limit = len(kernel), CHUNK if kernel.device.type == "cpu" else ACCELERATOR_CHUNK
    step = max(1, limit // channels**2)
    taps = kernel.flatten(2).permute(2, 1, 0).reshape(-1, channels**2)  # transposed, for LAPACK
    # A product with the DFT matrix: kernels have few taps, and real ones fold onto half of them, since
    # Σ_τ a(τ) e^{iωτ} = Σ_τ≥0 cos(ωτ)(a(τ) + a(−τ)) + i sin(ωτ)(a(τ) − a(−τ)).
    half = len(taps) // 2 + 1
    even, odd = (taps + taps.flip(0))[:half], (taps - taps.flip(0))[:half]
    even[-1] /= 2
    even[-1].view(channels, channels).diagonal().add_(1)
    cosines, sines = waves(grid, kernel.shape[-1] // 2, kernel.dtype)
    for start in range(0, len(cosines), step):
        part = slice(start, start + step)
        system = torch.complex(cosines[part] @ even, sines[part] @ odd)
        yield part, system.view(-1, channels, channels).mT


@dataclass(frozen=True)
class Inverse:
    """(I + A)⁻¹ at the kept frequencies of a map size, dearer to make than LU factors and cheaper to use."""

    grid: Grid
    # Real (F, B, C, 2C / B): row d of a frequency's blocks, side by side, is column d of the inverse, its real parts
    # before its imaginary ones.
    tables: Tensor

    @property
    def nbytes(self) -> int:
        return self.tables.nbytes

    def solve(self, maps: Tensor, *, is_adjoint: bool = False) -> Tensor:
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
        """Return `rows @ tables` for one image, (F, B, 2, 2C / B)."""
        # That is bound by reading the tables, which a processor does almost twice as fast in an embedding bag, itself a
        # weighted sum of table rows, as in a matrix product. A block stays in the cache for both sums.
        frequencies, blocks, channels, width = self.tables.shape
        weights = rows.expand(frequencies, blocks, 2, channels).reshape(-1)
        (places, starts), table = self._bags, self.tables.view(-1, width)
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
