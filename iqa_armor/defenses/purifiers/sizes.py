"""Sides of images that a purifier's arithmetic asks for."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional


def on_padded(purify: Callable[[Tensor], Tensor], images: Tensor, *, multiple: int = 1, least: int = 1) -> Tensor:
    """Return what a map gives of images (N, 3, H, W) with a border, without that border and in [0, 1].

    The border repeats the image to the right and below, to sides that are multiples and not below `least`.
    """
    height, width = images.shape[-2:]
    right, below = (max(side, least) + -max(side, least) % multiple - side for side in (width, height))
    padded = functional.pad(images, (0, right, 0, below), mode="replicate") if right or below else images
    return purify(padded)[..., :height, :width].clamp(0, 1)
