"""Sqish, a smooth activation near leaky ReLU."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Sqish(nn.Module):
    """Map x to αx + (1 − α)·x / √(1 + β·exp(−2γ(1 − α)x)), a smooth approximation of max(αx, x).

    α in [0, 1) is the slope far below zero, β > 0 the weight of the exponential, γ > 0 the sharpness: the larger, the
    nearer to leaky ReLU of slope α.

    Source: Biswas et al., "A Non-monotonic Smooth Activation Function", arXiv:2310.10126. Ours: the constants
    α = 0.01, β = γ = 1 are fixed, not trained, and near ReLU, whose place the function takes in pretrained networks.
    """

    is_traced_whole = True  # one node of a graph

    def __init__(self, alpha: float = 0.01, beta: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__()
        if not (0 <= alpha < 1 and 0 < beta < math.inf and 0 < gamma < math.inf):
            raise ValueError(f"Sqish needs alpha in [0, 1) and positive beta and gamma, got {alpha}, {beta}, {gamma}")
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def forward(self, input: Tensor) -> Tensor:
        exponent = math.log(self.beta) - 2 * self.gamma * (1 - self.alpha) * input
        # 1 / √(1 + eᵗ) in a form whose gradient is finite for every t.
        share = torch.exp(-0.5 * functional.softplus(exponent))
        return input * (self.alpha + (1 - self.alpha) * share)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}"
