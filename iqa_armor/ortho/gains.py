"""The largest and smallest gain of a layer too large to decompose, by Lanczos' method."""

from __future__ import annotations

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
    """Extreme values of ‖Jx‖ / ‖x‖ for a layer's linear part J.

    Args:
        largest: The largest singular value, approached from below.
        smallest: The smallest gain, approached from above; 0 where J has a null space. None if not asked for.
        tolerance: Each value is this close to a singular value.
        steps: Products with J and its transpose that it took.
    """

    largest: float
    smallest: float | None
    tolerance: float
    steps: int


def extreme_gains(
    layer: nn.Module,
    example: Tensor,
    *,
    with_smallest: bool = False,
    tolerance: float = 1e-4,
    max_steps: int = 60,
) -> Gains:
    """Return the largest and, if asked for, the smallest gain of a linear-plus-bias layer.

    Takes the memory of `max_steps` inputs in float64 and needs far fewer steps than power iteration.

    Args:
        layer: Module that is linear up to an offset; its mode is left alone.
        example: Input whose shape, type and device are used; the whole batch is one vector.
        with_smallest: Whether to wait for the smallest gain as well.
        tolerance: Residual to stop at, relative to the largest.
        max_steps: Steps after which it stops in any case; the tolerance returned says how far it came.

    Raises:
        ValueError: If the tolerance or the number of steps is not positive.

    Source: Golub and Van Loan, "Matrix Computations", 4th edition, Section 10.1, on JᵀJ with full
    reorthogonalization.
    """
    if tolerance <= 0 or max_steps < 1:
        raise ValueError(f"tolerance and max_steps must be positive, got {tolerance} and {max_steps}")
    process = _Lanczos(_normal_operator(layer, example), example, max_steps)
    while True:
        process.step()
        found = process.gains(with_smallest=with_smallest)
        has_converged = process.count >= LEAST_STEPS and found.tolerance <= tolerance
        if has_converged or process.is_exhausted or process.count == max_steps:
            return found
        process.extend()


class _Lanczos:
    """The tridiagonal form of a symmetric operator on growing Krylov spaces, in float64."""

    def __init__(self, operator: Callable[[Tensor], Tensor], example: Tensor, max_steps: int) -> None:
        self.operator = operator
        self.noise = ROUNDING * torch.finfo(example.dtype).eps
        self.basis = torch.empty(max_steps, example.numel(), dtype=torch.float64, device=example.device)
        self.rest = torch.randn(example.numel(), generator=torch.Generator().manual_seed(0)).to(self.basis)
        self.diagonal: list[float] = []
        self.beside = [float(self.rest.norm())]
        self.count = 0
        self.extend()

    @property
    def is_exhausted(self) -> bool:
        """Whether the operator gives nothing new but rounding: the values found are all there are."""
        scale = max(abs(value) for value in self.diagonal)
        return self.beside[-1] <= self.noise * scale or self.count == self.basis.shape[1]

    def step(self) -> None:
        """Apply the operator to the newest basis vector."""
        newest, space = self.basis[self.count - 1], self.basis[: self.count]
        image = self.operator(newest)
        self.diagonal.append(float(image @ newest))
        for _ in range(2):  # twice is enough: what one pass leaves is rounding
            image = image - space.T @ (space @ image)
        self.rest = image
        self.beside.append(float(image.norm()))

    def extend(self) -> None:
        """Make the newest direction a basis vector."""
        self.basis[self.count] = self.rest / self.beside[-1]
        self.count += 1

    def gains(self, *, with_smallest: bool) -> Gains:
        """Return the extreme Ritz values as gains; an error in σ² of r is one in σ of r / σ at most."""
        off = torch.tensor(self.beside[1:-1], dtype=torch.float64)
        matrix = torch.diag(torch.tensor(self.diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(matrix)
        roots = values.clamp_min(0).sqrt()
        residuals = self.beside[-1] * vectors[-1].abs()
        bounds = torch.minimum(residuals / roots.clamp_min(torch.finfo(torch.float64).tiny), residuals.sqrt())
        bound = torch.stack([bounds[0], bounds[-1]]).max() if with_smallest else bounds[-1]
        return Gains(float(roots[-1]), float(roots[0]) if with_smallest else None, float(bound), self.count)


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
