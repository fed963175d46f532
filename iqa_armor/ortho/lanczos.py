"""Extreme singular values by Lanczos' method, of one layer or of a function's Jacobian at each image of a batch.

Source: Golub and Van Loan, "Matrix Computations", 4th edition, Section 10.1, on JᵀJ or JJᵀ, with full
reorthogonalization. (ours) the criteria by which it stops.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from iqa_armor.ortho.precision import exact_products

Operator = Callable[[Tensor], Tensor]
TINY = torch.finfo(torch.float64).tiny
ROUNDING = 32  # units of rounding of the layer's own type below which the relative length of a direction is noise
# Steps before convergence is believed: an orthogonal layer looks converged at once, and one frequency that is not
# orthogonal takes a few steps to stand out.
LEAST_STEPS = 10
LEAST_AT_IMAGES = 4


class Roots(NamedTuple):
    """What k steps found of symmetric operators, one per row, in float64."""

    values: Tensor  # roots of the Ritz values (N, k), ascending; NaN where products are not finite
    residuals: Tensor  # how far each may be from a singular value (N, k)
    exhausted: Tensor  # whether a further step would give nothing but rounding (N,)


def lanczos(product: Operator, start: Tensor, *, steps: int, dtype: torch.dtype) -> Iterator[Roots]:
    """Yield, after each of at most `steps` products, computed in `dtype`, what is known of N maps JᵀJ on (N, D)."""
    most, noise = start.shape[1], ROUNDING * torch.finfo(dtype).eps
    steps = min(steps, most)
    basis = start.new_empty(len(start), steps, most)
    newest = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for count in range(1, steps + 1):
        basis[:, count - 1] = newest
        space, rest = basis[:, :count], product(newest)
        diagonal.append((rest * newest).sum(1, dtype=torch.float64))
        for _ in range(2):  # twice is enough: what one pass leaves is rounding
            rest = rest - torch.einsum("nk,nkd->nd", torch.einsum("nkd,nd->nk", space, rest), space)
        beside.append(torch.linalg.vector_norm(rest, dim=1, dtype=torch.float64))
        is_short = beside[-1] <= noise * torch.stack(diagonal).abs().amax(0)
        yield Roots(*_ritz(torch.stack(diagonal, 1), torch.stack(beside, 1)), is_short | (count == most))
        # Vectors of an exhausted space are zero, so that they add zero eigenvalues only.
        newest = rest * torch.where(is_short, 0.0, 1 / beside[-1].clamp_min(TINY)).to(rest)[:, None]


def _ritz(diagonal: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
    """Return roots and residuals (N, k) of tridiagonal forms; the last number beside is the next direction's length."""
    off = beside[:, :-1]
    matrices = torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    is_finite = matrices.isfinite().flatten(1).all(1)
    squares, vectors = torch.linalg.eigh(torch.where(is_finite[:, None, None], matrices, 0.0))
    roots = torch.where(is_finite[:, None], squares.clamp_min(0).sqrt(), math.nan)
    # An error of r in σ² is one of r / σ, and of √r, at most in σ.
    errors = beside[:, -1:] * vectors[:, -1].abs()
    return roots, torch.minimum(errors / roots.clamp_min(TINY), errors.sqrt())


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

    Takes the memory of `max_steps` inputs in float64. It stops where the residual relative to the largest is within
    the tolerance, after `max_steps` in any case; the tolerance returned says how far it came. Of the example only
    shape, type and device count; the whole batch is one vector.
    """
    if tolerance <= 0 or max_steps < 1:
        raise ValueError(f"tolerance and max_steps must be positive, got {tolerance} and {max_steps}")
    start = torch.randn(1, example.numel(), generator=torch.Generator().manual_seed(0)).to(example.device).double()
    for found in lanczos(_normal_operator(layer, example), start, steps=max_steps, dtype=example.dtype):
        bounds = found.residuals[0]
        bound = float(torch.stack([bounds[0], bounds[-1]]).max() if with_smallest else bounds[-1])
        if bool(found.exhausted) or (len(bounds) >= LEAST_STEPS and bound <= tolerance):
            break
    values = found.values[0]
    return Gains(float(values[-1]), float(values[0]) if with_smallest else None, bound, len(values))


def _normal_operator(layer: nn.Module, example: Tensor) -> Operator:
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
        return pulled.view_as(flat).to(flat)

    return apply


class Found(NamedTuple):
    """Estimates (N,) approached from below, without any margin, and whether each can be relied upon (N,)."""

    values: Tensor
    converged: Tensor


def largest_singular_value(
    function: Operator, x: Tensor, *, tolerance: float = 1e-3, steps: int = 100, starts: int = 2
) -> Found:
    """Return the largest singular value of a function's Jacobian at every image of a batch.

    The function maps a batch (N, …) to (N, …) and treats images independently, as networks in eval mode do; `x` are the
    points to differentiate at, `steps` the most products with the Jacobian and its transpose per start. An estimate,
    the largest of all starts, has converged if these agree and in each the last step changed it by no more than the
    tolerance and the residual, which bounds the distance to some singular value, is no larger either.
    """
    if tolerance <= 0 or min(steps, starts, len(x)) < 1:
        given = f"{tolerance}, {steps}, {starts}, {len(x)}"
        raise ValueError(f"tolerance, steps, starts and the number of images must be positive, got {given}")
    output, push, pull = linearized(function, x.detach())
    is_wide = output.shape[1:].numel() > x.shape[1:].numel()
    example, first, then = (x.detach(), push, pull) if is_wide else (output, pull, push)

    def product(flat: Tensor) -> Tensor:
        return then(first(flat.view_as(example))).detach().flatten(1)

    generator = torch.Generator().manual_seed(0)
    found = [_of_start(product, example, tolerance, steps=steps, generator=generator) for _ in range(starts)]
    values = torch.stack([each.values for each in found])
    agree = values.amax(0) - values.amin(0) <= tolerance * values.amax(0)
    return Found(values.amax(0), torch.stack([each.converged for each in found]).all(0) & agree)


def _of_start(product: Operator, example: Tensor, tolerance: float, *, steps: int, generator: Generator) -> Found:
    start = torch.randn(len(example), example[0].numel(), generator=generator).to(example)
    estimates = torch.zeros(len(example), dtype=torch.float64, device=example.device)
    for count, found in enumerate(lanczos(product, start, steps=steps, dtype=example.dtype), start=1):
        previous, estimates = estimates, found.values[:, -1]
        is_steady = (estimates - previous).abs().maximum(found.residuals[:, -1]) <= tolerance * estimates
        converged = (is_steady & (count >= LEAST_AT_IMAGES)) | found.exhausted
        if bool((converged | estimates.isnan()).all()):
            break
    return Found(estimates, converged & estimates.isfinite())


def linearized(function: Operator, x: Tensor) -> tuple[Tensor, Operator, Operator]:
    """Return (f(x), v ↦ J v, u ↦ Jᵀ u) of a function at x."""
    output, pulled = torch.func.vjp(function, x)[:2]

    def pull(vectors: Tensor) -> Tensor:
        return torch.as_tensor(pulled(vectors)[0])

    def push(vectors: Tensor) -> Tensor:
        # Not torch.func.linearize: it saves little here, and gave wrong products for circular convolutions (2.15).
        return torch.as_tensor(torch.func.jvp(function, (x,), (vectors,))[1])

    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch's, at the first derivative
            push(torch.zeros_like(x))
    except NotImplementedError:
        # A layer without a forward derivative: differentiate Jᵀu, linear in u, by u, at several times the cost.
        twice = torch.func.vjp(pull, torch.zeros_like(output))[1]
        return output, lambda vectors: twice(vectors)[0], pull
    return output, push, pull
