"""Upper bounds on the norm of a convolution that hold for maps of every size, any zero padding and stride."""

import math

import torch
from torch import Tensor

DENSITY = 32  # frequencies per unit of the kernel's reach; more are dearer and tighter
AFFORDABLE = 2e9  # multiplications that one singular value decomposition per frequency may take in all


@torch.no_grad()
def convolution_bound(weight: Tensor, *, groups: int = 1) -> float:
    """Return an upper bound on the largest singular value of a convolution as an operator on maps.

    Every zero-padded, strided, dilated or circular convolution takes inputs and outputs of one on the infinite grid
    away, whose norm is the largest that the kernel's transform reaches at any frequency. That is exact for 1 × 1
    kernels; else it is measured on a grid of frequencies and divided by cos(π n / M) per dimension, n being the reach
    and M the frequencies (1 % in all), or, where that would take long, bounded by the kernel laid out as a matrix in
    four ways (loose by up to the root of the kernel's area). The weight is (C_out, C_in / groups, h, w); a matrix
    (C_out, C_in) is a 1 × 1 kernel.

    Source: M. Riesz's inequality for trigonometric polynomials, Ehlich and Zeller, "Schwankung von Polynomen zwischen
    Gitterpunkten", Math. Zeitschrift 86, 1964, applied to u*K(ω)v; Singla and Feizi, "Fantastic Four: Differentiable
    Bounds on Singular Values of Convolution Layers", ICLR 2021, arXiv:1911.10258, Theorem 1.
    """
    kernel = weight.detach().double().cpu()
    if kernel.ndim == 2:
        kernel = kernel[:, :, None, None]
    if kernel.ndim != 4 or groups < 1 or len(kernel) % groups:
        raise ValueError(f"a kernel (C_out, C_in / groups, h, w) is needed, got {tuple(weight.shape)}, groups {groups}")
    parts = kernel.reshape(groups, -1, *kernel.shape[1:])
    reach = [math.ceil((side - 1) / 2) for side in kernel.shape[2:]]
    counts = [max(1, DENSITY * each) for each in reach]
    outputs, inputs = parts.shape[1:3]
    if groups * math.prod(counts) * outputs * inputs * min(outputs, inputs) / 2 > AFFORDABLE:
        return _reshaped(parts)
    spectrum = torch.fft.rfft2(parts, s=counts).permute(0, 3, 4, 1, 2)
    largest = float(torch.linalg.matrix_norm(spectrum, ord=2).max())
    return largest / math.prod(math.cos(math.pi * n / count) for n, count in zip(reach, counts, strict=True))


def _reshaped(parts: Tensor) -> float:
    """Return the least of the norms of four layouts times √(h w), the largest over groups (G, C_out, C_in, h, w)."""
    height, width = parts.shape[3:]
    layouts = [
        parts.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2),  # (C_out h) × (C_in w)
        parts.permute(0, 1, 4, 2, 3).flatten(3).flatten(1, 2),  # (C_out w) × (C_in h)
        parts.flatten(2),  # C_out × (C_in h w)
        parts.permute(0, 1, 3, 4, 2).flatten(1, 3),  # (C_out h w) × C_in
    ]
    norms = [max(_norm(matrix) for matrix in layout) for layout in layouts]
    return math.sqrt(height * width) * min(norms)


def _norm(matrix: Tensor) -> float:
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0))
