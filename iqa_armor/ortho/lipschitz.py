"""Singular values measured on what a layer computes, not on its parameters."""

import torch
from torch import Tensor, nn

# Impulses sent through a layer at once, and complex numbers decomposed at once.
CHUNK = 64
SPECTRUM_CHUNK = 2**22


@torch.no_grad()
def singular_values(module: nn.Module, *, channels: int, size: tuple[int, int]) -> Tensor:
    """Return every singular value of a circular convolution on maps of one size, largest first, in float64.

    Exact up to the module's own rounding (float32: about 1e-5 relative): the responses to one impulse per
    channel, less the response to zero, are its kernel; its transform is one small matrix per frequency. Only
    the half of them that is not the conjugate of another is decomposed; 16 · C_in · C_out bytes are held for each. They
    are (H · W · min(C_in, C_out),), on the CPU. The module takes maps of `channels` and of a size (H, W); it is
    linear-plus-bias and circular: it commutes with shifts.

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
