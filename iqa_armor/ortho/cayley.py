"""Orthogonal convolution by the Cayley transform in the Fourier domain."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from iqa_armor.ortho.circular import adjoint_kernel, autocorrelation, convolve, kernel_gradient
from iqa_armor.ortho.inverse import Inverse, invert
from iqa_armor.ortho.layer import OrthogonalConv2d, full_precision
from iqa_armor.ortho.spectrum import Factor, factorize


class CayleyConv2d(OrthogonalConv2d):
    """Circular convolution, orthogonal at every frequency, on maps of any size.

    With the kernel split in U (C_in outputs) and V (the rest) and A = U − Uᵀ + VᵀV, the operator is
    Q = [(I + A)⁻¹(I − A); −2V(I + A)⁻¹]. It is never formed: z = (I + A)⁻¹x gives Qx = [2z − x; −2Vz].
    The inverse is not a small kernel, so the layer reaches over the whole map and depends on its size.

    In eval mode the inverse is kept per map size, within `cache.limit` bytes (by default 2 GiB; 512 → 1024
    channels on 32 × 32 maps take 1.1 GB); over that limit it is computed anew at every call.

    Args:
        in_channels: C_in, at least 1.
        out_channels: C_out, at least C_in.
        kernel_size: k, odd; may exceed the map, then the kernel wraps around it.

    Attributes:
        weight: Kernel (C_out, C_in, k, k), U above V.

    Source: Trockman and Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform", ICLR 2021,
    arXiv:2104.07167, eq. 9 and Section 4. (ours) no rescaling of the kernel by a learned norm; solves
    against the data instead of an inverse; VᵀV is formed from the kernel, not per frequency.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel from the default generator, in place, with ‖V‖ of about one; the bias becomes zero."""
        nn.init.normal_(self.weight, std=1 / (self.kernel_size * math.sqrt(self.in_channels)))
        nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, C_out, H, W) of maps (N, C_in, H, W), in their dtype; computed in float32 or better."""
        working = torch.promote_types(self.weight.dtype, torch.float32)
        with full_precision(maps.device):
            weight, signal = self.weight.to(working), maps.to(working)
            solved, rest = _Resolvent.apply(signal, weight, self._factor(weight.detach(), maps))
            output = torch.cat([2 * solved - signal, -2 * rest], dim=1)
            return (output + self.bias.to(working).view(-1, 1, 1)).to(maps.dtype)

    def _factor(self, weight: Tensor, maps: Tensor) -> Factor | Inverse:
        height, width = maps.shape[-2:]
        if self.training:
            return factorize(cayley_matrix(weight), height, width)

        def build() -> tuple[Inverse, int]:
            inverse = invert(cayley_matrix(weight), height, width)
            return inverse, inverse.size_bytes

        return self.cache.get((height, width), (self.weight,), build)


def cayley_matrix(weight: Tensor) -> Tensor:
    """Return the kernel (C_in, C_in, 2k − 1, 2k − 1) of A = U − Uᵀ + VᵀV for a weight (C_out, C_in, k, k)."""
    square, rest = _split(weight)
    matrix = autocorrelation(rest) if len(rest) else _centered_zeros(weight)
    margin = weight.shape[-1] // 2
    inner = matrix[..., margin : matrix.shape[-1] - margin, margin : matrix.shape[-1] - margin]
    inner += square - adjoint_kernel(square)
    return matrix


def _centered_zeros(weight: Tensor) -> Tensor:
    size, channels = 2 * weight.shape[-1] - 1, weight.shape[1]
    return weight.new_zeros(channels, channels, size, size)


def _split(weight: Tensor) -> tuple[Tensor, Tensor]:
    channels = weight.shape[1]
    return weight[:channels], weight[channels:]


class _Resolvent(torch.autograd.Function):
    """Maps x to z = (I + A)⁻¹x and Vz; differentiable to any order in x and the weight.

    With w = (I + A)⁻ᵀ(ḡ_z + Vᵀḡ_v) the gradient in x is w and the one in the weight that of
    −⟨w, A z⟩ + ⟨ḡ_v, V z⟩ with w and z held fixed: no spectrum is differentiated.
    """

    @staticmethod
    def forward(maps: Tensor, weight: Tensor, factor: Factor | Inverse) -> tuple[Tensor, Tensor]:
        solved = factor.solve(maps)
        return solved, convolve(solved, _split(weight)[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Factor | Inverse], output: tuple[Tensor, Tensor]) -> None:
        ctx.factor = inputs[2]
        ctx.save_for_backward(inputs[1], *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, solved, rest = ctx.saved_tensors
        of_solved, of_rest = gradients
        lower = _split(weight)[1]
        dual = _Adjoint.apply(of_solved + convolve(of_rest, adjoint_kernel(lower)), weight, ctx.factor)
        if not ctx.needs_input_grad[1]:
            return dual, None, None
        return dual, _weight_gradient(weight, (solved, rest), (dual, convolve(dual, lower)), of_rest), None


class _Adjoint(torch.autograd.Function):
    """Maps g to (I + A)⁻ᵀg; its own backward serves second derivatives."""

    @staticmethod
    def forward(gradient: Tensor, weight: Tensor, factor: Factor | Inverse) -> Tensor:  # noqa: ARG004
        return factor.solve(gradient, is_adjoint=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Factor | Inverse], output: Tensor) -> None:
        ctx.factor = inputs[2]
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, dual = ctx.saved_tensors
        primal, rest = _Resolvent.apply(gradients[0], weight, ctx.factor)
        if not ctx.needs_input_grad[1]:
            return primal, None, None
        lower = _split(weight)[1]
        return primal, _weight_gradient(weight, (primal, rest), (dual, convolve(dual, lower)), None), None


def _weight_gradient(
    weight: Tensor, primal: tuple[Tensor, Tensor], dual: tuple[Tensor, Tensor], of_rest: Tensor | None
) -> Tensor:
    """Return the gradient of −⟨w, A z⟩ + ⟨ḡ_v, V z⟩ in the weight, given (z, Vz), (w, Vw) and ḡ_v.

    ⟨w, A z⟩ = ⟨w, U z⟩ − ⟨U w, z⟩ + ⟨V w, V z⟩.
    """
    solved, rest = primal
    adjoint, adjoint_rest = dual
    target = adjoint_rest if of_rest is None else adjoint_rest - of_rest
    both = -kernel_gradient(solved, torch.cat([adjoint, target], dim=1), weight)
    square, lower = _split(both)
    lower = lower - kernel_gradient(adjoint, rest, lower)
    return torch.cat([square - adjoint_kernel(square), lower])
