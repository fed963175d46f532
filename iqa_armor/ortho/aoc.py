"""Adaptive orthogonal convolution: an explicit kernel composed of orthogonal factors."""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from iqa_armor.ortho.layer import FoldedConv2d


class AocConv2d(FoldedConv2d):
    """Circular convolution whose kernel is semi-orthogonal by construction.

    A 1×1 convolution with orthonormal columns, then k − 1 convolutions 2×1 and as many 1×2, whose two taps are
    complementary orthogonal projectors of rank ⌊C_out/2⌋. `mixing` is the raw matrix (C_out, C_in) of the first,
    `subspaces` are the raw bases (2(k − 1), C_out, ⌊C_out/2⌋) of the projectors; by fours: 2×1, 1×2, 1×2, 2×1.

    Source: Boissin et al., "An Adaptive Orthogonal Convolution Scheme", 2025, arXiv:2501.07930, for the block
    convolution of projectors (there after Xiao et al. 2018 and Li et al. 2019). (ours) orthonormalization by
    Cholesky-QR in place of Björck iterations, so that nothing is iterated, stored or left to converge; the 1×1
    factor has its own C_out × C_in matrix; of every four, the last two have their taps exchanged, so that on
    mirrored subspaces the four cancel to a centered identity.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.mixing = nn.Parameter(torch.empty(out_channels, in_channels))
        self.subspaces = nn.Parameter(torch.empty(2 * (kernel_size - 1), out_channels, out_channels // 2))
        if not self.mixing.is_meta:  # a file being opened gives the matrices memory and values
            self.sample()

    def sample(self, generator: Generator | None = None) -> None:
        nn.init.orthogonal_(self.mixing, generator=generator)
        nn.init.normal_(self.subspaces, std=1 / math.sqrt(self.out_channels), generator=generator)
        nn.init.zeros_(self.bias)

    def right_inverse(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return the matrix itself and subspaces mirrored by fours, whose factors cancel."""
        subspaces = self.subspaces.detach()
        fours = subspaces.view(len(subspaces) // 4, 2, 2, *subspaces.shape[1:])
        return {"mixing": matrix, "subspaces": torch.cat([fours[:, :1], fours[:, :1].flip(2)], 1).flatten(0, 2)}

    def kernel(self) -> Tensor:
        return orthogonal_kernel(self.mixing, self.subspaces)


def orthogonal_kernel(mixing: Tensor, subspaces: Tensor) -> Tensor:
    """Return the kernel (C_out, C_in, k, k), float32 or better, of a layer's raw matrices of full column rank."""
    working = torch.promote_types(mixing.dtype, torch.float32)
    bases = orthonormal_columns(subspaces.to(working))
    taps = orthonormal_columns(mixing.to(working))[..., None, None]
    for number, basis in enumerate(bases):
        is_column, is_exchanged = number % 4 in (1, 2), number % 4 >= 2
        inside = torch.einsum("cr,dr,dihw->cihw", basis, basis, taps)
        outside = taps - inside
        first, second = (outside, inside) if is_exchanged else (inside, outside)
        # The block convolution of two taps [P, I − P] with what there is: shifted copies overlap and add.
        before, after = ((0, 1), (1, 0)) if is_column else ((0, 0, 0, 1), (0, 0, 1, 0))
        taps = functional.pad(first, before) + functional.pad(second, after)
    return taps


def orthonormal_columns(matrices: Tensor) -> Tensor:
    """Return the Q of the QR decomposition, with a positive diagonal of R, of matrices (…, m, n), m ≥ n."""
    # Cholesky-QR twice: matrix products only, orthonormal to rounding for condition numbers up to 1e3 in float32.
    for _ in range(2):
        lower = torch.linalg.cholesky(matrices.mT @ matrices)
        matrices = torch.linalg.solve_triangular(lower, matrices.mT, upper=False).mT
    return matrices
