"""What a model costs to run."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from iqa_armor.attacks.base import frozen
from iqa_armor.models.base import QualityModel


def count_parameters(model: QualityModel) -> int:
    """Return the number of parameter values."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: QualityModel, image: Tensor) -> int:
    """Return the floating-point operations of scoring one prepared image (3, H, W).

    Convolutions and matrix products are counted, two operations per multiply-add; FFTs and
    element-wise work are not. What a first call prepares for all later ones (the kernel of an
    orthogonal convolution) is not counted either.
    """
    counter, batch = FlopCounterMode(display=False), image.unsqueeze(0).to(model.mean.device)
    with frozen(model), torch.no_grad():
        model(batch)
        with counter:
            model(batch)
    return int(counter.get_total_flops())
