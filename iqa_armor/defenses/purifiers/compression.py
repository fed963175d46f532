"""Purifiers that spend fewer bits: JPEG, its differentiable form, fewer levels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.base import Plain
from iqa_armor.defenses.purifiers.sizes import cropped_like, padded
from iqa_armor.limits import check_limits

_BLOCK = 16  # JPEG's blocks of 8×8 at half the size, for colors


@dataclass(frozen=True)
class JPEG(Plain):
    """Compress images as JPEG files and read them again, at 8 bits and with halved color resolution.

    Args:
        quality: Of libjpeg, from 1 to 100.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the quality of 75 (Pillow's) is (ours).
    """

    is_differentiable: ClassVar[bool] = False
    quality: int = 75

    def __post_init__(self) -> None:
        check_limits(self, quality="[1, 100]")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1] without a gradient; draws nothing."""
        levels = (images.detach() * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        return torch.stack([self._decoded(image) for image in levels]).to(images) / 255

    def surrogate(self, images: Tensor) -> Tensor:
        """Return the differentiable JPEG of the same quality."""
        return DiffJPEG(self.quality).compressed(images)

    def _decoded(self, image: Tensor) -> Tensor:
        import numpy as np
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        with Image.open(file) as compressed:
            return torch.from_numpy(np.array(compressed)).permute(2, 0, 1)


@dataclass(frozen=True)
class DiffJPEG(Plain):
    """Quantise images as JPEG does, with rounding that has a gradient.

    Args:
        quality: As libjpeg's, from 1 to 100.

    Source: [AP] Gushchin et al., arXiv:2404.06957; kornia's form of Reich et al., "Differentiable JPEG: The Devil is
    in the Details", WACV 2024. Repeating the border to multiples of 16 pixels, as files do, and the quality of 75
    are (ours).
    """

    quality: int = 75

    def __post_init__(self) -> None:
        check_limits(self, quality="[1, 100]")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1]."""
        return self.compressed(images)

    def compressed(self, images: Tensor) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1]."""
        from kornia.enhance import jpeg_codec_differentiable

        qualities = torch.full((len(images),), float(self.quality)).to(images)
        return cropped_like(jpeg_codec_differentiable(padded(images, multiple=_BLOCK), qualities), images)


@dataclass(frozen=True)
class Quantize(Plain):
    """Round every pixel value to one of a few evenly spaced levels; attackers pass it straight through.

    Args:
        levels: Number of values per color channel, black and white among them, from 2 to 256.

    Source: [AP] Gushchin et al., arXiv:2404.06957; as bit depth in Xu et al., "Feature Squeezing", NDSS 2018,
    arXiv:1704.01155, Section III-A. The 32 levels are (ours).
    """

    is_differentiable: ClassVar[bool] = False
    levels: int = 32

    def __post_init__(self) -> None:
        check_limits(self, levels="[2, 256]")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1] without a gradient; draws nothing."""
        steps = self.levels - 1
        return ((images.detach() * steps).round() / steps).clamp(0, 1)
