"""Scores of prepared images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from iqa_armor.attacks.base import frozen
from iqa_armor.data.prepared import PreparedImages, worker_count
from iqa_armor.progress import Progress, silent


def predict(
    model: nn.Module,
    images: PreparedImages,
    *,
    batch_size: int = 32,
    progress: Progress = silent,
    task: str = "scoring",
) -> Tensor:
    """Return the scores (N,) of prepared images on the CPU, in eval mode without gradients; restores the mode."""
    device = next(model.parameters()).device
    loader: Iterable[Any] = DataLoader(
        images, batch_size, num_workers=worker_count(images), pin_memory=device.type == "cuda"
    )
    scores: list[Tensor] = []
    with frozen(model), torch.inference_mode():
        for batch, _, _ in loader:
            scores.append(model(batch.to(device, non_blocking=True)).float().cpu())
            progress(task, sum(map(len, scores)), len(images))
    return torch.cat(scores)
