"""Scores, their gradients by the pixels, and the mean of random ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from iqa_armor.attacks.base import ScoreFn
from iqa_armor.attacks.projection import per_image
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


def expectation(score: ScoreFn, samples: int) -> ScoreFn:
    """Return the mean of several evaluations of a random score, with the mean of their gradients (EOT).

    Gradients are summed as they come, so memory does not grow with `samples`. They are gradients by the pixels
    only, for attacks: parameters get none, and there is no second derivative. An attack that keeps its best iterate
    chooses by noisy means: the fewer samples, the more of the gain it saw is luck; score its result afresh.

    Args:
        score: Maps images (N, 3, H, W) in [0, 1] to scores (N,), differently at every call; no image's score
            depends on another image.
        samples: Number of evaluations behind every score.

    Raises:
        ValueError: If there is no sample.

    Source: expectation over transformation, Athalye et al., "Obfuscated Gradients Give a False Sense of Security",
    ICML 2018, arXiv:1802.00420, Section 4.2.
    """
    if samples < 1:
        raise ValueError(f"an expectation needs samples >= 1, got {samples}")

    def mean_score(images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            mean: Tensor = _MeanScore.apply(images, score, samples)
            return mean
        return torch.stack([evaluate_score(score, images) for _ in range(samples)]).mean(0)

    return mean_score


class _MeanScore(torch.autograd.Function):
    """Mean of random scores; the gradient is taken during the forward pass, one sample at a time."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, score: ScoreFn, samples: int) -> Tensor:
        total, slope = score_and_gradient(score, images)
        for _ in range(samples - 1):
            scores, gradient = score_and_gradient(score, images)
            total, slope = total + scores, slope + gradient
        ctx.save_for_backward(slope / samples)
        return total / samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_score: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return per_image(by_score) * slope, None, None
