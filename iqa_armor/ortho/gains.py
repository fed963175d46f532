"""The largest and smallest gain of a layer too large to decompose, by Lanczos' method."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iqa_armor.ortho.precision import exact_products

# Steps before convergence is believed: an orthogonal layer looks converged at once, and one frequency that is not
# orthogonal takes a few steps to stand out.
LEAST_STEPS = 10
# Units of rounding of the layer's own type below which a new direction is noise.
ROUNDING = 32


@dataclass(frozen=True)
class Gains:
    """Extreme values of ‖Jx‖ / ‖x‖ for a layer's linear part J."""

    largest: float  # singular value, approached from below
    smallest: float | None  # approached from above; 0 where J has a null space; None if not asked for
    tolerance: float  # each value is this close to a singular value
    steps: int  # products with J and its transpose that it took


def extreme_gains(
    layer: nn.Module, example: Tensor, *, with_smallest: bool = False, tolerance: float = 1e-4, max_steps: int = 60
) -> Gains:
    """Return the largest and, if asked for, the smallest gain of a linear-plus-bias layer.

    Takes the memory of `max_steps` inputs in float64 and needs far fewer steps than power iteration. It stops where the
    residual relative to the largest is within the tolerance, after `max_steps` in any case; the tolerance returned says
    how far it came. Of the example only shape, type and device count; the whole batch is one vector. The layer's mode
    is left alone.

    Source: Golub and Van Loan, "Matrix Computations", 4th edition, Section 10.1, on JᵀJ with full
    reorthogonalization.
    """
    if tolerance <= 0 or max_steps < 1:
        raise ValueError(f"tolerance and max_steps must be positive, got {tolerance} and {max_steps}")
    operator, noise = _normal_operator(layer, example), ROUNDING * torch.finfo(example.dtype).eps
    basis = torch.empty(max_steps, example.numel(), dtype=torch.float64, device=example.device)
    rest = torch.randn(example.numel(), generator=torch.Generator().manual_seed(0)).to(basis)
    diagonal: list[float] = []
    beside = [float(rest.norm())]
    for count in range(1, max_steps + 1):
        basis[count - 1] = rest / beside[-1]
        space, newest = basis[:count], basis[count - 1]
        rest = operator(newest)
        diagonal.append(float(rest @ newest))
        for _ in range(2):  # twice is enough: what one pass leaves is rounding
            rest = rest - space.T @ (space @ rest)
        beside.append(float(rest.norm()))
        found = _ritz_gains(diagonal, beside[1:], with_smallest=with_smallest)
        # The operator gives nothing new but rounding: the values found are all there are.
        is_exhausted = beside[-1] <= noise * max(map(abs, diagonal)) or count == example.numel()
        if is_exhausted or (count >= LEAST_STEPS and found.tolerance <= tolerance):
            break
    return found


def _ritz_gains(diagonal: list[float], beside: list[float], *, with_smallest: bool) -> Gains:
    """Return the extreme Ritz values of a tridiagonal form as gains; an error in σ² of r is one in σ of r / σ at most.

    The last number beside the diagonal is the norm of what the next direction would be.
    """
    off = torch.tensor(beside[:-1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp_min(0).sqrt()
    residuals = beside[-1] * vectors[-1].abs()
    bounds = torch.minimum(residuals / roots.clamp_min(torch.finfo(torch.float64).tiny), residuals.sqrt())
    bound = torch.stack([bounds[0], bounds[-1]]).max() if with_smallest else bounds[-1]
    return Gains(float(roots[-1]), float(roots[0]) if with_smallest else None, float(bound), len(diagonal))


def _normal_operator(layer: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Return x ↦ JᵀJx on flat vectors, computed in the layer's own type."""
    with torch.enable_grad(), exact_products(example.device):
        point = torch.zeros_like(example).requires_grad_()
        output = layer(point)
    offset = output.detach()

    def apply(flat: Tensor) -> Tensor:
        with exact_products(example.device):
            with torch.no_grad():
                pushed = layer(flat.view_as(example).to(example)) - offset
            (pulled,) = torch.autograd.grad(output, point, pushed, retain_graph=True)
        return pulled.flatten().to(flat)

    return apply
