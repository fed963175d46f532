"""Nearest images within a budget, and what else is counted image by image."""

import torch
from torch import Tensor


def per_image(values: Tensor) -> Tensor:
    """Return one value per image, (N,), shaped (N, 1, 1, 1) so that it applies to whole images."""
    return values.view(-1, 1, 1, 1)


def project_linf(images: Tensor, center: Tensor, epsilon: float) -> Tensor:
    """Return the nearest images to `images`, (N, 3, H, W) in any range, within epsilon of `center` in every value.

    Values inside the ball keep their bits, which is what lets budgets share gradients.
    """
    return torch.clamp(images, center - epsilon, center + epsilon)


def project_l2(images: Tensor, center: Tensor, epsilon: float) -> Tensor:
    """Return the nearest images to `images` whose change from `center` has a Euclidean length of at most epsilon."""
    change = images - center
    lengths = torch.linalg.vector_norm(change.flatten(1), dim=1)
    shares = epsilon / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    return torch.where(per_image(lengths > epsilon), center + per_image(shares) * change, images)


def linf_box(images: Tensor, radius: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest pixels, (N, 3, H, W), within `radius` of the images and within [0, 1].

    A ball in L-infinity cut by the range of pixels is a box, so one clamp projects on both. The radius is one for all
    images or shaped (N, 1, 1, 1).
    """
    return (images - radius).clamp_min(0), (images + radius).clamp_max(1)


def divide_by_norm(gradient: Tensor, *, order: int) -> Tensor:
    """Return each image's gradient (N, 3, H, W) divided by its own norm of order 1 or 2; zero stays zero.

    At least in float32: a value divided by the norm of a whole image is too small for half precision.
    """
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    norms = torch.linalg.vector_norm(gradient.flatten(1), ord=order, dim=1)
    return gradient / per_image(norms.clamp_min(torch.finfo(norms.dtype).tiny))
