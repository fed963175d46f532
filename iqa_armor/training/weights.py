"""Adversarial weight perturbation ("AWP")."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from iqa_armor.training.defenses import GRADIENT_SCALE, FitContext, TrainingDefense, frozen_statistics


@dataclass(frozen=True)
class WeightPerturbation(TrainingDefense):
    """Take the gradient of each step where the weights were moved up it first, so that flat minima are found.

    Every kernel and matrix w moves by γ · ‖w‖ · g / ‖g‖, g being its gradient of all that is minimised.

    Source: Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020, arXiv:2004.05884:
    one step, layer by layer, γ = 0.005. Ours: penalties attack images anew at the moved weights, and g is taken in eval
    mode. Alone it perturbs clean fitting, beside another defense, such as teacher+awp, that.
    """

    size: float = 0.005  # γ

    @classmethod
    def of(cls, context: FitContext) -> Self:
        return cls(context.settings.awp_size)

    @contextmanager
    def moved(self, model: nn.Module, objective: Callable[[], Tensor]) -> Iterator[None]:
        """Give the model the moved weights while the block runs, and its own, to the bit, afterwards."""
        weights = [each for each in model.parameters() if each.requires_grad and each.ndim >= 2]
        with frozen_statistics(model):
            gradients = torch.autograd.grad(GRADIENT_SCALE * objective(), weights, allow_unused=True)
        own = [each.detach().clone() for each in weights]
        try:
            with torch.no_grad():
                for weight, slope in zip(weights, gradients, strict=True):
                    if slope is not None and (length := slope.norm()) > 0:
                        weight.add_(self.size * weight.norm() / length * slope)
            yield
        finally:
            with torch.no_grad():
                for weight, before in zip(weights, own, strict=True):
                    weight.copy_(before)
