"""The largest singular value of a Jacobian, one per image, from products with it and its transpose."""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

Operator = Callable[[Tensor], Tensor]


class Found(NamedTuple):
    """Estimates (N,) approached from below, without any margin, and whether each can be relied upon (N,)."""

    values: Tensor
    converged: Tensor


def largest_singular_value(
    function: Operator, x: Tensor, *, tolerance: float = 1e-3, steps: int = 100, starts: int = 2
) -> Found:
    """Return the largest singular value of a function's Jacobian at every image of a batch.

    Lanczos' method runs for all images together, since one does not influence another. An estimate has converged if
    in every start the last step changed it by no more than the tolerance and the residual, which bounds the distance
    to some singular value, is no larger either, and all random starts agree, of which the largest result counts.

    The function maps a batch (N, …) to (N, …) and treats images independently, as networks in eval mode do; `x` are the
    points to differentiate at, `steps` the most products with the Jacobian and its transpose per start.

    Source: Golub and Van Loan, "Matrix Computations", 4th edition, Section 10.1, on JᵀJ or JJᵀ, whichever is smaller,
    with full reorthogonalization. (ours) the criterion.
    """
    if tolerance <= 0 or min(steps, starts, len(x)) < 1:
        given = f"{tolerance}, {steps}, {starts}, {len(x)}"
        raise ValueError(f"tolerance, steps, starts and the number of images must be positive, got {given}")
    points = x.detach()
    output, push, pull = linearized(function, points)
    if output.shape[1:].numel() <= points.shape[1:].numel():
        example, product = output, lambda vectors: push(pull(vectors))
    else:
        example, product = points, lambda vectors: pull(push(vectors))
    generator = torch.Generator().manual_seed(0)
    found = [_lanczos(product, example, tolerance, steps=steps, generator=generator) for _ in range(starts)]
    values = torch.stack([each.values for each in found])
    agree = values.amax(0) - values.amin(0) <= tolerance * values.amax(0)
    converged = torch.stack([each.converged for each in found]).all(0) & agree
    return Found(values.amax(0), converged)


def linearized(function: Operator, x: Tensor) -> tuple[Tensor, Operator, Operator]:
    """Return (f(x), v ↦ J v, u ↦ Jᵀ u) of a function at x.

    Layers without a forward derivative are pushed through by differentiating Jᵀu, linear in u, by u: the same values
    at several times the cost.
    """
    output, pulled = torch.func.vjp(function, x)[:2]

    def pull(vectors: Tensor) -> Tensor:
        return torch.as_tensor(pulled(vectors)[0])

    def push(vectors: Tensor) -> Tensor:
        # Not torch.func.linearize: it saves little here, and gave wrong products for circular convolutions (2.15).
        return torch.as_tensor(torch.func.jvp(function, (x,), (vectors,))[1])

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, at the first forward derivative
            push(torch.zeros_like(x))
    except NotImplementedError:
        twice = torch.func.vjp(pull, torch.zeros_like(output))[1]
        return output, lambda vectors: twice(vectors)[0], pull
    return output, push, pull


def _lanczos(product: Operator, example: Tensor, tolerance: float, *, steps: int, generator: Generator) -> Found:
    process = _Process(product, example, generator)
    estimates = residuals = torch.zeros(len(example), dtype=torch.float64, device=example.device)
    most, converged = example[0].numel(), torch.zeros_like(estimates, dtype=torch.bool)
    for count in range(1, min(steps, most) + 1):
        process.step()
        previous = estimates
        estimates, residuals = process.estimate()
        is_steady = (estimates - previous).abs().maximum(residuals) <= tolerance * estimates
        is_exhausted = process.exhausted if count < most else torch.ones_like(converged)
        converged = (is_steady & (count >= 4)) | is_exhausted  # fewer steps are not believed
        if bool((converged | estimates.isnan()).all()):
            break
    return Found(estimates, converged & estimates.isfinite())


class _Process:
    """Tridiagonal forms of symmetric operators, one per image, on growing Krylov spaces."""

    def __init__(self, product: Operator, example: Tensor, generator: Generator) -> None:
        self.product, self.example = product, example
        start = torch.randn(len(example), example[0].numel(), generator=generator).to(example)
        self.basis = [start / torch.linalg.vector_norm(start, dim=1, keepdim=True)]
        self.diagonal: list[Tensor] = []
        self.beside: list[Tensor] = []

    @property
    def exhausted(self) -> Tensor:
        # Nothing new but rounding is left of an image's space (N,).
        noise = 32 * torch.finfo(self.example.dtype).eps
        return self.beside[-1] <= noise * torch.stack(self.diagonal).abs().amax(0)

    def step(self) -> None:
        newest = self.basis[-1]
        image = self.product(newest.view_as(self.example)).detach().flatten(1)
        self.diagonal.append((image * newest).sum(1, dtype=torch.float64))
        space = torch.stack(self.basis, dim=1)
        for _ in range(2):  # twice is enough: what one pass leaves is rounding
            image = image - torch.einsum("nk,nkd->nd", torch.einsum("nkd,nd->nk", space, image), space)
        length = torch.linalg.vector_norm(image, dim=1, dtype=torch.float64)
        self.beside.append(length)
        # Vectors of an exhausted space are zero, so that they add zero eigenvalues only.
        scale = torch.where(self.exhausted, 0.0, 1 / length.clamp_min(torch.finfo(torch.float64).tiny))
        self.basis.append(image * scale.to(image)[:, None])

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Return the largest singular values and how far each may be from a singular value, (N,) each."""
        matrices = torch.diag_embed(torch.stack(self.diagonal, 1))
        if len(self.diagonal) > 1:
            off = torch.stack(self.beside[:-1], 1)
            matrices = matrices + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
        is_finite = matrices.isfinite().all(-1).all(-1)
        values, vectors = torch.linalg.eigh(torch.where(is_finite[:, None, None], matrices, 0.0))
        roots = torch.where(is_finite, values[:, -1].clamp_min(0).sqrt(), math.nan)
        # An error of r in σ² is one of r / σ at most in σ.
        residuals = self.beside[-1] * vectors[:, -1, -1].abs() / roots.clamp_min(torch.finfo(torch.float64).tiny)
        return roots, residuals
