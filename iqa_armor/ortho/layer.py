"""What a backend is: the base of orthogonal convolutions, and of those that are one plain kernel once it is built."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from iqa_armor.errors import UsageError
from iqa_armor.ortho.cache import CachingModule
from iqa_armor.ortho.circular import convolve
from iqa_armor.ortho.plain import PlainConv2d
from iqa_armor.ortho.precision import exact_products, full_precision


class OrthogonalConv2d(CachingModule, ABC):
    """Circular convolution from C_in to C_out ≥ C_in channels, plus a bias, none of whose singular values exceeds 1.

    A backend is one subclass and an entry in `iqa_armor.ortho.BACKENDS`. It makes its parameters, then calls `sample`,
    and gives the five methods below. What is stored of it is its state dict, which must hold all that it computes
    from; it is rebuilt from its sizes on the meta device and given that state.

    A ValueError refuses no input channels, fewer outputs than inputs, which cannot preserve norms, and an even kernel.
    """

    keeps_norms: ClassVar[bool] = True  # whether every singular value is 1 on maps of any size, not only at most 1
    fits_any_size: ClassVar[bool] = True  # whether what `plain` returns takes maps of any size, not the one only

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        if not 1 <= in_channels <= out_channels:
            raise ValueError(
                f"an orthogonal convolution needs 1 ≤ in_channels ≤ out_channels, got {in_channels} and {out_channels}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.bias = nn.Parameter(torch.zeros(out_channels))

    @abstractmethod
    def compute(self, maps: Tensor) -> Tensor:
        """Return (N, C_out, H, W) of maps (N, C_in, H, W), in their dtype; what can be kept in eval mode is."""

    @abstractmethod
    def sample(self, generator: Generator | None = None) -> None:
        """Draw the parameters of a new layer, in place, without bias; from the default generator if none is given."""

    @abstractmethod
    def right_inverse(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return parameters by name with which the layer is the 1×1 convolution by a matrix, as `aligned` returns it.

        It is (C_out, C_in) with orthonormal columns, in float64. Raises ValueError if no parameters give another.
        """

    @abstractmethod
    def plain(self, size: tuple[int, int]) -> nn.Module:
        """Return the layer folded for maps of `size` (H, W): buffers of its own, no parameters, plain operations."""

    def aligned(self, matrix: Tensor) -> Tensor:
        """Return a matrix (C_out, C_in) with the same orthonormal span that `right_inverse` takes."""
        return matrix

    @classmethod
    def contains(cls, values: Tensor, *, tolerance: float = 1e-4) -> bool:
        """Return whether an operator with these singular values is one of those that the backend promises."""
        return bool((values <= 1 + tolerance).all() and (not cls.keeps_norms or (values >= 1 - tolerance).all()))

    @torch.no_grad()
    def assign(self, matrix: Tensor) -> None:
        """Make the layer the 1×1 convolution by a matrix, in place, as far as its parameters' type allows."""
        for name, value in self.right_inverse(matrix).items():
            self.get_parameter(name).copy_(value)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, C_out, H, W) of maps (N, C_in, H, W); of maps without values only their size."""
        if maps.is_meta:
            return maps.new_empty(len(maps), self.out_channels, *maps.shape[-2:])
        if torch.compiler.is_dynamo_compiling():  # what is kept between calls has no place in a graph
            return torch.compiler.disable(self._exactly)(maps)  # type: ignore[no-any-return,no-untyped-call]
        return self._exactly(maps)

    def _exactly(self, maps: Tensor) -> Tensor:
        with exact_products(maps.device):
            return self.compute(maps)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, circular"


def accepted(found: Any, name: str) -> type[OrthogonalConv2d]:
    """Return a backend that a user named, or refuse what is none."""
    if isinstance(found, type) and issubclass(found, OrthogonalConv2d):
        return found
    raise UsageError(f"{name} is no class of orthogonal convolutions; derive it from OrthogonalConv2d")


class FoldedConv2d(OrthogonalConv2d):
    """Orthogonal convolution that is one plain circular convolution once its kernel is built."""

    @abstractmethod
    def kernel(self) -> Tensor:
        """Return the kernel (C_out, C_in, k, k), differentiable in the parameters."""

    def compute(self, maps: Tensor) -> Tensor:
        raw = tuple(parameter for name, parameter in self.named_parameters() if name != "bias")
        # In eval mode, unless a gradient in the parameters is wanted, the kernel is built once and kept.
        wants_gradient = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in raw)
        if self.training or wants_gradient:
            kernel = self._built()
        else:
            kernel = self.cache.get("kernel", raw, lambda: self._built().detach().contiguous())
        return convolve(maps, kernel.to(self.bias.dtype), self.bias)

    @torch.no_grad()
    def plain(self, size: tuple[int, int]) -> nn.Module:  # noqa: ARG002
        """Return one convolution with a fixed kernel, for maps of any size."""
        with exact_products(self.bias.device):
            return PlainConv2d(self._built().to(self.bias.dtype), self.bias.clone())

    def _built(self) -> Tensor:
        # A kernel rounded to half precision is orthogonal to 1e-2 only.
        with full_precision(self.bias.device):
            return self.kernel()
