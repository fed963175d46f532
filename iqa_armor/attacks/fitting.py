"""What attacks that learn from images share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, Batches, Fitted, ScoreFn
from iqa_armor.attacks.scores import evaluate_score


def fitted_on(attack: Fitted, score: ScoreFn, images: Tensor, generator: Generator) -> Tensor:
    """Return images (N, 3, H, W) in [0, 1] attacked by what was learned on them."""
    return attack.fit(score, lambda: (images,), generator)(score, images, generator)


def batches_of(batches: Batches) -> Iterator[Tensor]:
    """Yield the batches of one pass that hold images.

    Raises:
        ValueError: If none does.
    """
    is_empty = True
    for images in batches():
        if len(images):
            is_empty = False
            yield images.detach()
    if is_empty:
        raise ValueError("an attack cannot be fitted without images; every pass over the batches must give some")


@torch.no_grad()
def mean_score(score: ScoreFn, attack: Attack, batches: Batches, generator: Generator) -> float:
    """Return the mean score of all images under an attack; errors as in `batches_of`."""
    total, count = 0.0, 0
    for images in batches_of(batches):
        total += float(evaluate_score(score, attack(score, images, generator)).double().sum())
        count += len(images)
    return total / count
