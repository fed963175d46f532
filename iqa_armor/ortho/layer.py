"""What the three orthogonal convolutions share: sizes, bias, checks and the plain kernel they fold into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from iqa_armor.ortho.cache import CachingModule
from iqa_armor.ortho.circular import convolve


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast is off, on devices that know it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class OrthogonalConv2d(CachingModule):
    """Circular convolution from C_in to C_out ≥ C_in channels with a bias on its output.

    Args:
        in_channels: C_in, at least 1.
        out_channels: C_out, at least C_in: fewer outputs cannot preserve norms.
        kernel_size: k, odd.

    Raises:
        ValueError: If the sizes are not as above.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        if not 1 <= in_channels <= out_channels:
            raise ValueError(
                f"an orthogonal convolution needs 1 ≤ in_channels ≤ out_channels, got {in_channels} and {out_channels}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def extra_repr(self) -> str:
        """Return the sizes, as torch.nn.Conv2d shows them."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, circular"


class FoldedConv2d(OrthogonalConv2d, ABC):
    """Orthogonal convolution that is one plain circular convolution once its kernel is built.

    In eval mode, unless a gradient in its parameters is wanted, the kernel is built once and kept.
    """

    @abstractmethod
    def kernel(self) -> Tensor:
        """Return the kernel (C_out, C_in, k, k), differentiable in the parameters."""

    def folded(self) -> nn.Conv2d:
        """Return a new torch.nn.Conv2d that computes the same with plain weights."""
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            padding=self.kernel_size // 2,
            padding_mode="circular",
            device=self.bias.device,
            dtype=self.bias.dtype,
        )
        with torch.no_grad():
            plain.weight.copy_(self._built())
            plain.bias.copy_(self.bias)  # type: ignore[union-attr]
        return plain.train(self.training)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, C_out, H, W) of maps (N, C_in, H, W)."""
        return convolve(maps, self._current().to(self.bias.dtype), self.bias)

    def _current(self) -> Tensor:
        raw = tuple(parameter for name, parameter in self.named_parameters() if name != "bias")
        wants_gradient = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in raw)
        if self.training or wants_gradient:
            return self._built()
        return self.cache.get("kernel", raw, self._sized)

    def _sized(self) -> tuple[Tensor, int]:
        kernel = self._built().detach().contiguous()
        return kernel, kernel.nbytes

    def _built(self) -> Tensor:
        # A kernel rounded to half precision is orthogonal to 1e-2 only.
        with full_precision(self.bias.device):
            return self.kernel()
