"""Scores, their gradients by the pixels, and means of them over images or chance."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from iqa_armor.attacks.base import Attack, Batches, ScoreFn
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

    A score that does not depend on the pixels by differentiable steps is an ArmorError.
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


def batches_of(batches: Batches) -> Iterator[Tensor]:
    """Yield the batches of one pass that hold images; a ValueError if none does."""
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
    scores = [evaluate_score(score, attack(score, images, generator)).double() for images in batches_of(batches)]
    return sum(float(each.sum()) for each in scores) / sum(map(len, scores))


def expectation(score: ScoreFn, samples: int) -> ScoreFn:
    """Return the mean of several evaluations of a random score, with the mean of their gradients (EOT).

    Gradients are summed as they come, so memory does not grow with `samples`, at least one. They are gradients by the
    pixels only, for attacks: parameters get none, and there is no second derivative. No image's score may depend on
    another image. An attack that keeps its best iterate chooses by noisy means: the fewer samples, the more of the gain
    it saw is luck; score its result afresh.

    Source: expectation over transformation, Athalye et al., "Obfuscated Gradients Give a False Sense of Security",
    ICML 2018, arXiv:1802.00420, Section 4.2.
    """
    if samples < 1:
        raise ValueError(f"an expectation needs samples >= 1, got {samples}")

    def mean_score(images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            return _MeanScore.apply(images, score, samples)  # type: ignore[no-any-return]
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
