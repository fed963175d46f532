"""Circular convolutions with odd square kernels on maps of any size, and the algebra of their kernels."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight


def pad_circular(maps: Tensor, margin: int) -> Tensor:
    """Return maps (N, C, H, W) wrapped by `margin` pixels on every side; a margin may exceed H or W."""
    height, width = maps.shape[-2:]
    if margin <= min(height, width):
        return functional.pad(maps, (margin, margin, margin, margin), mode="circular")
    rows = torch.arange(-margin, height + margin, device=maps.device) % height
    columns = torch.arange(-margin, width + margin, device=maps.device) % width
    return maps.index_select(-2, rows).index_select(-1, columns)


def convolve(maps: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the circular cross-correlation of maps (N, C_in, H, W) with a kernel (C_out, C_in, k, k), k odd."""
    if not kernel.numel():  # no backend of conv2d takes zero channels
        return maps.new_zeros(len(maps), len(kernel), *maps.shape[-2:])
    return functional.conv2d(pad_circular(maps, kernel.shape[-1] // 2), kernel, bias)


def kernel_gradient(source: Tensor, target: Tensor, kernel: Tensor) -> Tensor:
    """Return the gradient of ⟨target, convolve(source, kernel)⟩ in a kernel, of which only the shape counts."""
    if not kernel.numel():
        return torch.zeros_like(kernel)
    padded = pad_circular(source, kernel.shape[-1] // 2)
    return conv2d_weight(padded, kernel.shape, target)  # type: ignore[no-untyped-call,no-any-return]


def adjoint_kernel(kernel: Tensor) -> Tensor:
    """Return the kernel (C_in, C_out, k, k) of the transposed operator of a kernel (C_out, C_in, k, k)."""
    return kernel.transpose(0, 1).flip(-2, -1)


def autocorrelation(kernel: Tensor) -> Tensor:
    """Return the kernel (C_in, C_in, 2k − 1, 2k − 1) of KᵀK for the operator K of a kernel (C_out, C_in, k, k)."""
    filters = kernel.transpose(0, 1)
    return functional.conv2d(filters, filters, padding=kernel.shape[-1] - 1).transpose(0, 1)
