"""Scores and their gradients, nearest images within a budget, and steps that keep the best image met."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from iqa_armor.attacks.base import Attack, Batches, Direction, ScoreFn
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
        blind = "the score has no gradient by the pixels, so a gradient attack cannot run"
        raise ArmorError(f"{blind}; remove whatever detaches it from its input")
    return scores.detach(), gradient


def batches_of(batches: Batches) -> Iterator[Tensor]:
    """Yield the batches of one pass that hold images; a ValueError if none does."""
    is_empty = True
    for images in filter(len, batches()):
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

    Gradients are summed as they come, so memory does not grow with `samples`, at least one. They are by the pixels
    only: parameters get none, and there is no second derivative. No image's score may depend on another image. An
    attack that keeps its best iterate chooses by noisy means, some of which are luck: score its result afresh.

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


def per_image(values: Tensor) -> Tensor:
    """Return one value per image, (N,), shaped (N, 1, 1, 1) so that it applies to whole images."""
    return values.view(-1, 1, 1, 1)


def project_linf(images: Tensor, center: Tensor, epsilon: float) -> Tensor:
    """Return the nearest images to `images`, (N, 3, H, W) in any range, within epsilon of `center` in every value."""
    # Values inside the ball keep their bits, which is what lets budgets share gradients.
    return torch.clamp(images, center - epsilon, center + epsilon)


def project_l2(images: Tensor, center: Tensor, epsilon: float) -> Tensor:
    """Return the nearest images to `images` whose change from `center` has a Euclidean length of at most epsilon."""
    change = images - center
    lengths = torch.linalg.vector_norm(change.flatten(1), dim=1)
    shares = epsilon / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    return torch.where(per_image(lengths > epsilon), center + per_image(shares) * change, images)


def linf_box(images: Tensor, radius: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest pixels, (N, 3, H, W), within a radius, one or (N, 1, 1, 1), and within [0, 1]."""
    return (images - radius).clamp_min(0), (images + radius).clamp_max(1)


def divide_by_norm(gradient: Tensor, *, order: int) -> Tensor:
    """Return each image's gradient (N, 3, H, W) divided by its own norm of order 1 or 2; zero stays zero.

    At least in float32: a value divided by the norm of a whole image is too small for half precision.
    """
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    norms = torch.linalg.vector_norm(gradient.flatten(1), ord=order, dim=1)
    return gradient / per_image(norms.clamp_min(torch.finfo(norms.dtype).tiny))


class Best:
    """The images (N, 3, H, W) on which the attacker fared best so far, each on its own, and its gains (N,) there.

    A gain of NaN is never beaten and never accepted.
    """

    def __init__(self, images: Tensor, gains: Tensor) -> None:
        self.images, self.gains = images, gains

    def update(self, images: Tensor, gains: Tensor) -> Tensor:
        """Keep what is better than before; return which images are, (N,) bool."""
        better = gains > self.gains
        self.images = torch.where(per_image(better), images.to(self.images.dtype), self.images)
        self.gains = torch.where(better, gains, self.gains)
        return better


def climb(
    score: ScoreFn, images: Tensor, move: Callable[[Tensor, Tensor], Tensor], *, direction: Direction, steps: int
) -> Tensor:
    """Return the images (N, 3, H, W) with the best scores on the way of an attacker, clean ones included.

    `move` maps images and the gradient of their scores to the next images, within the budget and [0, 1]; there are
    as many gradients as moves. The score and its error are those of `score_and_gradient`.
    """
    scores, gradient = score_and_gradient(score, images)
    best, attacked = Best(images, direction * scores), move(images, gradient)
    for _ in range(1, steps):
        scores, gradient = score_and_gradient(score, attacked)
        best.update(attacked, direction * scores)
        attacked = move(attacked, gradient)
    best.update(attacked, direction * evaluate_score(score, attacked))
    return best.images
