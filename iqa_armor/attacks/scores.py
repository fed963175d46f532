"""Scores and their gradients by the pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from iqa_armor.attacks.base import ScoreFn
from iqa_armor.errors import ArmorError


def evaluate_score(score: ScoreFn, images: Tensor) -> Tensor:
    """Return scores (N,) without building a graph."""
    with torch.no_grad():
        return score(images)


def score_gradient(score: ScoreFn, images: Tensor) -> Tensor:
    """Return the gradient of every image's own score by its pixels, (N, 3, H, W); errors as below."""
    return score_and_gradient(score, images)[1]


def score_and_gradient(score: ScoreFn, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores (N,) and the gradient of every image's own score by its pixels, (N, 3, H, W).

    Raises:
        ArmorError: If the score does not depend on the pixels by differentiable steps.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        scores = score(images)
        gradient: Tensor | None = None
        if scores.requires_grad:
            (gradient,) = torch.autograd.grad(scores.sum(), images, allow_unused=True)
    if gradient is None:
        raise ArmorError(
            "the score has no gradient by the pixels, so a gradient attack cannot run; "
            "remove whatever detaches it from its input"
        )
    return scores.detach(), gradient
