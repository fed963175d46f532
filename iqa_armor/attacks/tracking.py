"""Scores together with their gradients, and the best images met during an attack."""

from __future__ import annotations

import torch
from torch import Tensor

from iqa_armor.attacks.base import ScoreFn, score_gradient


class Best:
    """The images on which the attacker fared best so far, each image on its own.

    Args:
        images: Images (N, 3, H, W) to begin with.
        gains: What the attacker maximizes there, (N,); NaN is never beaten and never accepted.
    """

    def __init__(self, images: Tensor, gains: Tensor) -> None:
        self.images = images
        self.gains = gains

    def update(self, images: Tensor, gains: Tensor) -> Tensor:
        """Keep what is better than before; return which images are, (N,) bool."""
        better = gains > self.gains
        self.images = torch.where(per_image(better), images.to(self.images.dtype), self.images)
        self.gains = torch.where(better, gains, self.gains)
        return better


def per_image(values: Tensor) -> Tensor:
    """Return one value per image, (N,), shaped (N, 1, 1, 1) so that it applies to whole images."""
    return values.view(-1, 1, 1, 1)


def linf_box(images: Tensor, radius: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest pixels, (N, 3, H, W), within `radius` of the images and within [0, 1].

    A ball in L-infinity cut by the range of pixels is a box, so one clamp projects on both.

    Args:
        images: Images (N, 3, H, W) in [0, 1].
        radius: Largest change of a pixel, one for all or shaped (N, 1, 1, 1).
    """
    return (images - radius).clamp_min(0), (images + radius).clamp_max(1)


def evaluate_score(score: ScoreFn, images: Tensor) -> Tensor:
    """Return scores (N,) without building a graph."""
    with torch.no_grad():
        return score(images)


def score_and_gradient(score: ScoreFn, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores (N,) and the gradient of every image's own score by its pixels, (N, 3, H, W).

    Raises:
        ArmorError: If the score does not depend on the pixels by differentiable steps.
    """
    seen: list[Tensor] = []

    def remember(pixels: Tensor) -> Tensor:
        scores = score(pixels)
        seen.append(scores.detach())
        return scores

    gradient = score_gradient(remember, images)
    return seen[0], gradient


def divide_by_norm(gradient: Tensor, *, order: int) -> Tensor:
    """Return each image's gradient divided by its own L1 or L2 norm; a zero gradient stays zero.

    Args:
        gradient: Gradients (N, 3, H, W).
        order: 1 or 2.

    Returns:
        At least float32: a value divided by the norm of a whole image is too small for half precision.
    """
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    norms = torch.linalg.vector_norm(gradient.flatten(1), ord=order, dim=1)
    return gradient / per_image(norms.clamp_min(torch.finfo(norms.dtype).tiny))
