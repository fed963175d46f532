"""Losses between predicted scores and opinion scores of one batch."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]  # of predictions and opinion scores, (N,) each, N ≥ 2


def norm_in_norm(scores: Tensor, mos: Tensor) -> Tensor:
    """‖ŷ′ − y′‖₁ / (2√N), in [0, 1], both centered over the batch and divided by their L2 norm: blind to offset, unit.

    Source: Li et al., "Norm-in-Norm Loss with Faster Convergence and Better Performance for Image Quality
    Assessment", ACM MM 2020, Section 3 with p = 1, q = 2.
    """
    return (_unit(scores) - _unit(mos)).abs().sum() / (2 * math.sqrt(len(scores)))


def plcc_loss(scores: Tensor, mos: Tensor) -> Tensor:
    """(1 − PLCC) / 2 over the batch, in [0, 1]; 0 where predictions and labels are perfectly correlated."""
    return (1 - (_unit(scores) * _unit(mos)).sum()) / 2


def plcc_and_mse(scores: Tensor, mos: Tensor) -> Tensor:
    """Sum of `plcc_loss` and mean squared error: correlation within the batch, and one scale across batches."""
    return plcc_loss(scores, mos) + functional.mse_loss(scores, mos)


def _unit(values: Tensor) -> Tensor:
    centred = values - values.mean()
    return torch.div(centred, torch.linalg.vector_norm(centred).clamp_min(1e-6))
