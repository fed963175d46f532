"""Orthogonal convolution by the Cayley transform in the Fourier domain."""

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from iqa_armor.ortho.circular import adjoint_kernel, autocorrelation, convolve, kernel_gradient
from iqa_armor.ortho.layer import OrthogonalConv2d
from iqa_armor.ortho.plain import PlainCayley
from iqa_armor.ortho.precision import exact_products, full_precision
from iqa_armor.ortho.spectrum import Factor, Inverse, factorize, grid_of, inverses, invert

SINGULAR = 1e8  # condition of I + Q₁ from which it is taken for singular


class CayleyConv2d(OrthogonalConv2d):
    """Circular convolution, orthogonal at every frequency, on maps of any size.

    With the kernel split in U (C_in outputs) and V (the rest) and A = U − Uᵀ + VᵀV, the operator is
    Q = [(I + A)⁻¹(I − A); −2V(I + A)⁻¹]. It is never formed: z = (I + A)⁻¹x gives Qx = [2z − x; −2Vz].
    The inverse reaches over the whole map and depends on its size; a kernel that exceeds the map wraps around it. In
    eval mode the inverse is kept per map size, within `cache.limit` bytes (by default 2 GiB; 512 → 1024 channels on
    32 × 32 maps take 1.1 GB). The `weight` is the kernel (C_out, C_in, k, k), U above V.

    Source: Trockman and Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform", ICLR 2021,
    arXiv:2104.07167, eq. 9 and Section 4. (ours) no rescaling of the kernel by a learned norm; solves
    against the data instead of an inverse; VᵀV is formed from the kernel, not per frequency.
    """

    fits_any_size = False

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.sample()

    def sample(self, generator: Generator | None = None) -> None:
        """Draw a kernel with ‖V‖ of about one, in place; the bias becomes zero."""
        nn.init.normal_(self.weight, std=1 / (self.kernel_size * math.sqrt(self.in_channels)), generator=generator)
        nn.init.zeros_(self.bias)

    def aligned(self, matrix: Tensor) -> Tensor:
        """Return P R with R such that the top square of P R is symmetric and positive, so that it has a transform."""
        # With P₁ = W S Zᵀ and R = Z Wᵀ it is W S Wᵀ.
        left, _, right = torch.linalg.svd(matrix[: matrix.shape[1]])
        return matrix @ right.T @ left.T  # type: ignore[no-any-return]

    def right_inverse(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return the weight whose transform is [Q₁; Q₂] = `matrix`, which has no eigenvalue of −1 in Q₁."""
        top, bottom = _split(matrix)
        identity = torch.eye(len(top), dtype=matrix.dtype, device=matrix.device)
        if torch.linalg.cond(identity + top) > SINGULAR:
            raise ValueError("an orthogonal map whose top square has an eigenvalue of −1 has no Cayley transform")
        # A = (I − Q₁)(I + Q₁)⁻¹; its antisymmetric part is U − Uᵀ, and V = −Q₂(I + A)/2 gives the symmetric one, VᵀV.
        algebra = torch.linalg.solve(identity + top, identity - top)
        center = torch.cat([(algebra - algebra.T) / 4, -bottom @ (identity + algebra) / 2])
        return {"weight": functional.pad(center[..., None, None], (self.kernel_size // 2,) * 4)}

    @torch.no_grad()
    def plain(self, size: tuple[int, int]) -> nn.Module:
        """Return the layer for maps of one size, with its inverse written out for every frequency."""
        grid, weight = grid_of(*size, self.weight.device), self.weight.detach()
        with exact_products(weight.device):
            inverse = torch.cat([part for _, part in inverses(cayley_matrix(weight), grid)])
        return PlainCayley(inverse, _split(weight)[1], self.bias.detach(), grid=grid)

    def compute(self, maps: Tensor) -> Tensor:
        """Return (N, C_out, H, W) of maps (N, C_in, H, W), in their dtype; computed in float32 or better."""
        working, size = torch.promote_types(self.weight.dtype, torch.float32), maps.shape[-2:]
        factor: Factor | Inverse
        with full_precision(maps.device):
            weight, signal = self.weight.to(working), maps.to(working)
            if self.training:
                factor = factorize(cayley_matrix(weight.detach()), *size)
            else:
                factor = self.cache.get(size, (self.weight,), lambda: invert(cayley_matrix(weight.detach()), *size))
            solved, rest = _Resolvent.apply(signal, weight, factor)
            output = torch.cat([2 * solved - signal, -2 * rest], dim=1)
            return (output + self.bias.to(working).view(-1, 1, 1)).to(maps.dtype)


def cayley_matrix(weight: Tensor) -> Tensor:
    """Return the kernel (C_in, C_in, 2k − 1, 2k − 1) of A = U − Uᵀ + VᵀV for a weight (C_out, C_in, k, k)."""
    square, rest = _split(weight)
    channels, size, margin = weight.shape[1], 2 * weight.shape[-1] - 1, weight.shape[-1] // 2
    matrix = autocorrelation(rest) if len(rest) else weight.new_zeros(channels, channels, size, size)
    inner = matrix[..., margin : size - margin, margin : size - margin]
    inner += square - adjoint_kernel(square)
    return matrix


def _split(weight: Tensor) -> tuple[Tensor, Tensor]:
    return weight[: weight.shape[1]], weight[weight.shape[1] :]


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
        (weight, solved, rest), (of_solved, of_rest) = ctx.saved_tensors, gradients
        lower = _split(weight)[1]
        dual = _Adjoint.apply(of_solved + convolve(of_rest, adjoint_kernel(lower)), weight, ctx.factor)
        if not ctx.needs_input_grad[1]:
            return dual, None, None
        target = convolve(dual, lower) - of_rest
        return dual, _weight_gradient(weight, solved, rest, dual=dual, target=target), None


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
        target = convolve(dual, _split(weight)[1])
        return primal, _weight_gradient(weight, primal, rest, dual=dual, target=target), None


def _weight_gradient(weight: Tensor, solved: Tensor, rest: Tensor, *, dual: Tensor, target: Tensor) -> Tensor:
    """Return the gradient of −⟨w, A z⟩ + ⟨ḡ_v, V z⟩ in the weight, given z, Vz, w and Vw − ḡ_v."""
    # ⟨w, A z⟩ = ⟨w, U z⟩ − ⟨U w, z⟩ + ⟨V w, V z⟩
    square, lower = _split(-kernel_gradient(solved, torch.cat([dual, target], dim=1), weight))
    lower = lower - kernel_gradient(dual, rest, lower)
    return torch.cat([square - adjoint_kernel(square), lower])
