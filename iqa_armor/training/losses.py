"""Losses between predicted scores and opinion scores of one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

# Of predictions and opinion scores, (N,) each, N ≥ 2.
Loss = Callable[[Tensor, Tensor], Tensor]
TINY = 1e-6


def norm_in_norm(scores: Tensor, mos: Tensor) -> Tensor:
    """‖ŷ′ − y′‖₁ / (2√N), in [0, 1], both centred over the batch and divided by their L2 norm.

    It is blind to the scores' offset and unit.

    Source: Li et al., "Norm-in-Norm Loss with Faster Convergence and Better Performance for Image Quality
    Assessment", ACM MM 2020, Section 3 with p = 1, q = 2.
    """
    difference = _unit(scores) - _unit(mos)
    size: float = len(scores) ** 0.5
    return difference.abs().sum() / (2 * size)


def plcc_loss(scores: Tensor, mos: Tensor) -> Tensor:
    """(1 − PLCC) / 2 over the batch, in [0, 1]; 0 where predictions and labels are perfectly correlated."""
    return (1 - (_unit(scores) * _unit(mos)).sum()) / 2


def mse(scores: Tensor, mos: Tensor) -> Tensor:
    """Mean squared error; `mos` must be in the unit of `scores`."""
    return functional.mse_loss(scores, mos)


def plcc_and_mse(scores: Tensor, mos: Tensor) -> Tensor:
    """Sum of `plcc_loss` and `mse`: correlation within the batch, and one scale across batches."""
    return plcc_loss(scores, mos) + mse(scores, mos)


def _unit(values: Tensor) -> Tensor:
    centred = values - values.mean()
    length: Tensor = torch.linalg.vector_norm(centred)
    return centred / length.clamp_min(TINY)
