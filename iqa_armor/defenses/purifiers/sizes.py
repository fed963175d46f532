"""Sides of images that a purifier's arithmetic asks for."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def padded(images: Tensor, *, multiple: int = 1, least: int = 1) -> Tensor:
    """Return images (N, 3, H', W') with the border repeated to the right and below, to multiples not below `least`."""
    height, width = (max(side, least) + -max(side, least) % multiple for side in images.shape[-2:])
    padding = (0, width - images.shape[-1], 0, height - images.shape[-2])
    return functional.pad(images, padding, mode="replicate") if any(padding) else images


def cropped_like(purified: Tensor, images: Tensor) -> Tensor:
    """Return the part of `purified` that was not added by `padded`, in [0, 1]."""
    height, width = images.shape[-2:]
    return purified[..., :height, :width].clamp(0, 1)
