"""Singular values measured on what a layer computes, not on its parameters."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

# Impulses sent through a layer at once, and complex numbers decomposed at once.
CHUNK = 64
SPECTRUM_CHUNK = 2**22


@torch.no_grad()
def singular_values(module: nn.Module, *, channels: int, size: tuple[int, int]) -> Tensor:
    """Return every singular value of a circular convolution on maps of one size, largest first, in float64.

    Exact up to the module's own rounding (float32: about 1e-5 relative): the responses to one impulse per
    channel, less the response to zero, are its kernel; its transform is one small matrix per frequency. Only
    the half of them that is not the conjugate of another is decomposed; 16 · C_in · C_out bytes are held for each.

    Args:
        module: Linear-plus-bias and circular: it commutes with shifts. On its own device and dtype.
        channels: Input channels.
        size: (H, W) of the maps.

    Returns:
        Tensor (H · W · min(C_in, C_out),) on the CPU.

    Raises:
        ValueError: If the channels or the size are not positive, or the module changes the size.

    Source: Sedghi et al., "The Singular Values of Convolutional Layers", ICLR 2019, arXiv:1805.10408.
    """
    if channels < 1 or min(size) < 1:
        raise ValueError(f"channels and size must be positive, got {channels} and {size}")
    spectrum = torch.cat(_responses(module, channels, size)).permute(2, 3, 1, 0).flatten(0, 1)
    step = max(1, SPECTRUM_CHUNK // spectrum[0].numel())
    values = torch.cat([torch.linalg.svdvals(part) for part in torch.split(spectrum, step)])
    column = torch.arange(size[1] // 2 + 1).repeat(size[0])
    times = torch.where(2 * column % size[1] == 0, 1, 2)  # the first and a middle column have no conjugate twin
    return values.repeat_interleave(times, dim=0).flatten().sort(descending=True).values


def _responses(module: nn.Module, channels: int, size: tuple[int, int]) -> list[Tensor]:
    """Return the half spectra (n, C_out, H, W // 2 + 1) of the responses to an impulse in each input channel."""
    example = next(module.parameters(), torch.empty(0))
    zero = torch.zeros(1, channels, *size, dtype=example.dtype, device=example.device)
    offset = module(zero)
    if tuple(offset.shape[-2:]) != tuple(size):
        became = tuple(offset.shape[-2:])
        raise ValueError(f"maps of {size} became {became}; only a layer that keeps their size is measured")
    spectra = []
    for start in range(0, channels, CHUNK):
        count = min(CHUNK, channels - start)
        impulses = zero.repeat(count, 1, 1, 1)
        impulses[torch.arange(count), torch.arange(start, start + count), 0, 0] = 1
        spectra.append(torch.fft.rfft2((module(impulses) - offset).double().cpu()))
    return spectra


def largest_singular_value(
    module: nn.Module,
    example: Tensor,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
    generator: Generator | None = None,
) -> float:
    """Return the largest singular value of a layer's Jacobian at `example`, by power iteration.

    For a linear layer the point does not matter. The estimate approaches the value from below; it stops when
    one iteration changes it by less than `tolerance`, relative, so where several singular values nearly tie
    it may still be short by several times that.

    Args:
        module: Differentiable twice in its input; its mode is left alone.
        example: Input with its batch dimension; the whole batch is one vector.
        tolerance: Relative change to stop at.
        max_iterations: Steps after which it stops in any case.
        generator: Draws the start; a fixed seed by default.

    Raises:
        ValueError: If the tolerance or the number of steps is not positive.
    """
    if tolerance <= 0 or max_iterations < 1:
        raise ValueError(f"tolerance and max_iterations must be positive, got {tolerance} and {max_iterations}")
    source = generator or torch.Generator().manual_seed(0)
    direction = torch.randn(example.shape, generator=source, device=source.device).to(example)
    estimate = 0.0
    with torch.enable_grad():
        point = example.detach().requires_grad_()
        output = module(point)
        probe = torch.zeros_like(output, requires_grad=True)
        (pulled,) = torch.autograd.grad(output, point, probe, create_graph=True)  # Jᵀ probe, linear in probe
        for _ in range(max_iterations):
            direction = direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)
            (pushed,) = torch.autograd.grad(pulled, probe, direction, retain_graph=True)
            previous, estimate = estimate, float(pushed.norm())
            if abs(estimate - previous) <= tolerance * estimate:
                break
            (direction,) = torch.autograd.grad(output, point, pushed, retain_graph=True)
    return estimate
