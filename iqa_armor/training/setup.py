"""What a fit is made of: device, batches, parameter groups, step sizes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from iqa_armor.data.prepared import PreparedImages, worker_count
from iqa_armor.errors import DataError
from iqa_armor.recipe import Training


class WarmCosine:
    """Factor of the peak step size: linear over the first tenth of the steps, then half a cosine to zero."""

    def __init__(self, steps: int) -> None:
        self.steps = max(steps, 1)

    def __call__(self, step: int) -> float:
        """Return the factor of one step, in [0, 1]."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


def make_loader(images: PreparedImages, settings: Training, device: torch.device) -> DataLoader[Any]:
    """Return shuffled batches (images (N, 3, H, W), scores (N,), indices (N,))."""
    workers = worker_count(images)
    return DataLoader(
        images,
        min(settings.batch_size, len(images)),
        shuffle=True,
        drop_last=len(images) % settings.batch_size == 1,  # one image has no correlation and breaks batch norm
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(settings.seed),
    )


def parameter_groups(model: nn.Module, settings: Training) -> list[dict[str, Any]]:
    """Return AdamW's groups: weights are decayed, biases and the gains of norms are not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def require_one_size(*sets: PreparedImages) -> None:
    """Refuse sets that cannot be batched.

    Raises:
        DataError: If the first set has fewer than two images, or images differ in size.
    """
    if len(sets[0]) < 2:
        raise DataError(f"fitting needs at least two training images, got {len(sets[0])}")
    sizes = sorted({tuple(image.shape[-2:]) for images in sets for image in images.stored or ()})
    if len(sizes) > 1:
        raise DataError(
            f"training images differ in size, e.g. {sizes[0][0]}x{sizes[0][1]} and {sizes[-1][0]}x{sizes[-1][1]}; "
            "resize them all with --input-size HEIGHTxWIDTH"
        )
