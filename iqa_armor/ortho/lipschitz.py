"""Singular values: measured on what a layer computes, and bounds on those of a kernel on maps of any size."""

import math

import torch
from torch import Tensor, nn

# Impulses sent through a layer at once, and complex numbers decomposed at once.
CHUNK = 64
SPECTRUM_CHUNK = 2**22
DENSITY = 32  # frequencies per unit of the kernel's reach; more are dearer and tighter
AFFORDABLE = 2e9  # multiplications that one singular value decomposition per frequency may take in all


@torch.no_grad()
def singular_values(module: nn.Module, *, channels: int, size: tuple[int, int]) -> Tensor:
    """Return every singular value of a circular convolution on maps of one size, largest first, in float64.

    They are (H · W · min(C_in, C_out),), on the CPU, exact up to the module's own rounding (float32: about 1e-5
    relative): the responses to one impulse per channel, less the response to zero, are its kernel; its transform is one
    small matrix per frequency, of which the half that are no conjugates are decomposed; each takes 16 · C_in · C_out
    bytes. The module, linear-plus-bias, commutes with shifts and takes maps of `channels` and of a size (H, W).

    Source: Sedghi et al., "The Singular Values of Convolutional Layers", ICLR 2019, arXiv:1805.10408.
    """
    if channels < 1 or min(size) < 1:
        raise ValueError(f"channels and size must be positive, got {channels} and {size}")
    example = next(module.parameters(), torch.empty(0))
    zero = torch.zeros(1, channels, *size, dtype=example.dtype, device=example.device)
    offset = module(zero)
    if tuple(offset.shape[-2:]) != tuple(size):
        raise ValueError(
            f"maps of {size} became {(*offset.shape[-2:],)}; only a layer that keeps their size is measured"
        )
    responses = []  # half spectra (n, C_out, H, W // 2 + 1)
    for part in torch.split(torch.arange(channels), CHUNK):
        impulses = zero.repeat(len(part), 1, 1, 1)
        impulses[torch.arange(len(part)), part, 0, 0] = 1
        responses.append(torch.fft.rfft2((module(impulses) - offset).double().cpu()))
    spectrum = torch.cat(responses).permute(2, 3, 1, 0).flatten(0, 1)
    step = max(1, SPECTRUM_CHUNK // spectrum[0].numel())
    values = torch.cat([torch.linalg.svdvals(part) for part in torch.split(spectrum, step)])
    column = torch.arange(size[1] // 2 + 1).repeat(size[0])
    times = torch.where(2 * column % size[1] == 0, 1, 2)  # the first and a middle column have no conjugate twin
    return values.repeat_interleave(times, dim=0).flatten().sort(descending=True).values


@torch.no_grad()
def convolution_bound(weight: Tensor, *, groups: int = 1) -> float:
    """Return an upper bound on the largest singular value of a convolution as an operator on maps.

    The weight is (C_out, C_in / groups, h, w), or a matrix. Every zero-padded, strided, dilated or circular convolution
    takes inputs and outputs of one on the infinite grid away, whose norm is the largest that the kernel's transform
    reaches at any frequency. That is exact for 1 × 1 kernels; else it is measured on a grid of frequencies and divided
    by cos(π n / M) per dimension, n being the reach and M the frequencies (1 % in all), or, where that would take long,
    bounded by the kernel laid out as a matrix in four ways (loose by up to the root of the kernel's area).

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


def norm_bound(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> float:
    """Return the largest singular value of a batch norm in eval mode, which has running statistics."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)  # type: ignore[union-attr]
    return float((scale if norm.weight is None else norm.weight.detach().double() * scale).abs().max())


def _reshaped(parts: Tensor) -> float:
    """Return the least of the norms of four layouts times √(h w), the largest over groups (G, C_out, C_in, h, w)."""
    height, width = parts.shape[3:]
    layouts = [
        parts.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2),  # (C_out h) × (C_in w)
        parts.permute(0, 1, 4, 2, 3).flatten(3).flatten(1, 2),  # (C_out w) × (C_in h)
        parts.flatten(2),  # C_out × (C_in h w)
        parts.permute(0, 1, 3, 4, 2).flatten(1, 3),  # (C_out h w) × C_in
    ]
    grams = [each @ each.mT if each.shape[1] <= each.shape[2] else each.mT @ each for each in layouts]
    squares = min(float(torch.linalg.eigvalsh(gram).max()) for gram in grams)
    return math.sqrt(height * width * max(squares, 0.0))
