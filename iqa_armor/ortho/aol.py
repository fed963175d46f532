"""Almost-orthogonal convolution: a kernel rescaled so that no norm grows."""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from iqa_armor.ortho.aoc import orthogonal_kernel
from iqa_armor.ortho.circular import autocorrelation
from iqa_armor.ortho.layer import FoldedConv2d
from iqa_armor.ortho.precision import exact_products


class AolConv2d(FoldedConv2d):
    """Circular convolution with largest singular value at most 1; norm preserving while its kernel is orthogonal.

    Its `weight` is the raw kernel (C_out, C_in, k, k), before rescaling.

    Source: Prach and Lampert, "Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks",
    ECCV 2022, arXiv:2208.03160, Theorem 1. (ours) the raw kernel starts as an orthogonal one, which the
    rescaling leaves alone; from a random one, features would shrink at once.
    """

    keeps_norms = False

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        if not self.weight.is_meta:  # a file being opened gives the kernel memory and values
            self.sample()

    @torch.no_grad()
    def sample(self, generator: Generator | None = None) -> None:
        """Draw an orthogonal raw kernel, in place; the bias becomes zero."""
        factors = 2 * (self.kernel_size - 1), self.out_channels, self.out_channels // 2
        mixing = nn.init.orthogonal_(torch.empty_like(self.weight[..., 0, 0]), generator=generator)
        subspaces = self.weight.new_empty(factors).normal_(std=1 / math.sqrt(self.out_channels), generator=generator)
        with exact_products(self.weight.device):
            self.weight.copy_(orthogonal_kernel(mixing, subspaces))
        nn.init.zeros_(self.bias)

    def right_inverse(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return a raw kernel that is the matrix in its center; its columns are orthonormal, so it is left alone."""
        return {"weight": functional.pad(matrix[..., None, None], (self.kernel_size // 2,) * 4)}

    def kernel(self) -> Tensor:
        return rescale(self.weight.to(torch.promote_types(self.weight.dtype, torch.float32)))


def rescale(kernel: Tensor) -> Tensor:
    """Return a kernel (C_out, C_in, k, k) with every input channel scaled so that its operator is 1-Lipschitz."""
    # d_i = (Σ_j Σ_τ |(KᵀK)_ij(τ)|)^(−1/2); an input channel of zero weights stays zero.
    absolute = autocorrelation(kernel).abs().sum((1, 2, 3))
    scale = torch.where(absolute > 0, absolute, torch.ones_like(absolute)).rsqrt()
    return kernel * scale.view(1, -1, 1, 1)
