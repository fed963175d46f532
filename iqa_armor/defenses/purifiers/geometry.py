"""Purifiers that move pixels: mirror, rotate, crop, resize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

MODES = ("nearest", "bilinear", "bicubic")
LARGEST_FACTOR = 16.0


@dataclass(frozen=True)
class Flip:
    """Mirror images from left to right.

    Source: [AP] Gushchin et al., arXiv:2404.06957.
    """

    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = False

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1]; draws nothing."""
        from torchvision.transforms.v2 import functional

        return torch.as_tensor(functional.horizontal_flip(images)).clamp(0, 1)


@dataclass(frozen=True)
class Rotate:
    """Turn images about their center.

    Args:
        degrees: Angle, counter-clockwise, in [-180, 180].
        random: Whether each image draws its own angle, uniformly from -degrees to degrees.

    Raises:
        ValueError: If the angle is out of range.

    Source: [AP] Gushchin et al., arXiv:2404.06957. Bilinear sampling, corners filled with the image mirrored at its
    border, and the angle of 5 degrees are (ours).
    """

    is_differentiable: ClassVar[bool] = True

    degrees: float = 5.0
    random: bool = False

    def __post_init__(self) -> None:
        if not -180 <= self.degrees <= 180:
            raise ValueError(f"rotate needs degrees from -180 to 180, got {self.degrees}")

    @property
    def is_random(self) -> bool:
        """Whether angles are drawn."""
        return self.random

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1], each turned."""
        from kornia.geometry.transform import rotate

        degrees = torch.full((len(images),), self.degrees, device=generator.device)
        if self.random:
            degrees = degrees * (2 * torch.rand(len(images), generator=generator, device=generator.device) - 1)
        turned = rotate(images, degrees.to(images), mode="bilinear", padding_mode="reflection")
        return torch.as_tensor(turned).clamp(0, 1)


@dataclass(frozen=True)
class Crop:
    """Cut a random part out of each image and resize it to the image's size.

    Args:
        share: Share of the height and of the width that is kept, in (0, 1].

    Raises:
        ValueError: If the share is out of range.

    Source: [AP] Gushchin et al., arXiv:2404.06957. Resizing back (bilinear), so that the model sees the size it is
    made for, and the share of 0.9 are (ours).
    """

    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = True

    share: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"crop needs a share above 0 and at most 1, got {self.share}")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1], each cut elsewhere."""
        from torchvision.transforms.v2 import functional

        height, width = images.shape[-2:]
        kept = [max(1, round(self.share * side)) for side in (height, width)]
        places = torch.rand(len(images), 2, generator=generator, device=generator.device).tolist()
        parts = []
        for image, (down, right) in zip(images, places, strict=True):
            top, left = int(down * (height - kept[0] + 1)), int(right * (width - kept[1] + 1))
            parts.append(functional.resized_crop(image, top, left, *kept, size=[height, width], antialias=True))
        return torch.stack(parts).clamp(0, 1)


@dataclass(frozen=True)
class Resize:
    """Resize images by a factor and back to their size.

    Args:
        factor: Of both sides on the way out, in [1/16, 16]; above 1 the image is enlarged first.
        mode: "nearest", "bilinear" or "bicubic"; the latter two low-pass the image when shrinking it.

    Raises:
        ValueError: If the factor is out of range or the mode is unknown.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the factor of 0.5 and the low pass are (ours).
    """

    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = False

    factor: float = 0.5
    mode: str = "bilinear"

    def __post_init__(self) -> None:
        if not 1 / LARGEST_FACTOR <= self.factor <= LARGEST_FACTOR:
            raise ValueError(f"resize needs a factor from 1/16 (0.0625) to 16, got {self.factor}")
        if self.mode not in MODES:
            raise ValueError(f"resize needs a mode among {', '.join(MODES)}, got {self.mode!r}")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1]; draws nothing."""
        between = [max(1, round(self.factor * side)) for side in images.shape[-2:]]
        return self._to(self._to(images, between), list(images.shape[-2:])).clamp(0, 1)

    def _to(self, images: Tensor, size: list[int]) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        mode = InterpolationMode(self.mode)
        return torch.as_tensor(functional.resize(images, size, interpolation=mode, antialias=True))
