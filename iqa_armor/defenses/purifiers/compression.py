"""Purifiers that spend fewer bits: JPEG, its differentiable form, fewer levels."""

import io
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.base import Plain
from iqa_armor.defenses.purifiers.sizes import on_padded


@dataclass(frozen=True)
class DiffJPEG(Plain):
    """Quantise images as JPEG does at libjpeg's `quality`, from 1 to 100, with rounding that has a gradient.

    Source: [AP] Gushchin et al., arXiv:2404.06957; kornia's form of Reich et al., "Differentiable JPEG: The Devil is
    in the Details", WACV 2024. Repeating the border to multiples of 16 pixels, as files do, and the quality of 75
    (Pillow's) are (ours).
    """

    quality: Annotated[int, "[1, 100]"] = 75

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        return self.surrogate(images)

    def surrogate(self, images: Tensor) -> Tensor:
        from kornia.enhance import jpeg_codec_differentiable

        qualities = torch.full((len(images),), float(self.quality)).to(images)
        # JPEG's blocks of 8×8 are 16×16 pixels for colors.
        return on_padded(lambda padded: jpeg_codec_differentiable(padded, qualities), images, multiple=16)


@dataclass(frozen=True)
class JPEG(DiffJPEG):
    """Compress images as JPEG files and read them again, at 8 bits and with halved color resolution.

    Attackers differentiate `DiffJPEG` of the same quality, which says argument and source.
    """

    is_differentiable: ClassVar[bool] = False

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        levels = (images.detach() * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        return torch.stack([self._decoded(image) for image in levels]).to(images) / 255

    def _decoded(self, image: Tensor) -> Tensor:
        import numpy as np
        from PIL import Image

        from iqa_armor.data.images import opened

        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        with opened(file.getvalue(), formats=("JPEG",)) as compressed:
            return torch.from_numpy(np.array(compressed)).permute(2, 0, 1)


@dataclass(frozen=True)
class Quantize(Plain):
    """Round every value of a channel to one of `levels`, from 2 to 256, evenly spaced from black to white.

    Attackers pass it straight through.

    Source: [AP] Gushchin et al., arXiv:2404.06957; as bit depth in Xu et al., "Feature Squeezing", NDSS 2018,
    arXiv:1704.01155, Section III-A. The 32 levels are (ours).
    """

    is_differentiable: ClassVar[bool] = False
    levels: Annotated[int, "[2, 256]"] = 32

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        steps = self.levels - 1
        return ((images.detach() * steps).round() / steps).clamp(0, 1)
