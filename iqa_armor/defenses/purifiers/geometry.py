"""Purifiers that move pixels: mirror, rotate, crop, resize."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.base import Plain
from iqa_armor.limits import Limited


@dataclass(frozen=True)
class Flip(Plain):
    """Mirror images from left to right; source: [AP] Gushchin et al., arXiv:2404.06957."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        return images.flip(-1).clamp(0, 1)


@dataclass(frozen=True)
class Rotate(Limited):
    """Turn images about their center.

    Source: [AP] Gushchin et al., arXiv:2404.06957. Bilinear sampling, corners filled with the image mirrored at its
    border, and the angle of 5 degrees are (ours).
    """

    is_differentiable: ClassVar[bool] = True
    degrees: Annotated[float, "[-180, 180]"] = 5.0  # angle, counter-clockwise, in [-180, 180]
    random: bool = False  # whether each image draws its own angle, uniformly from -degrees to degrees

    @property
    def is_random(self) -> bool:
        return self.random

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        from kornia.geometry.transform import rotate

        degrees = torch.full((len(images),), self.degrees, device=generator.device)
        if self.random:
            degrees = degrees * (2 * torch.rand(len(images), generator=generator, device=generator.device) - 1)
        turned = rotate(images, degrees.to(images), mode="bilinear", padding_mode="reflection")
        return torch.as_tensor(turned).clamp(0, 1)


@dataclass(frozen=True)
class Crop(Plain):
    """Cut a random part out of each image, a `share` in (0, 1] of its height and width, and resize it to its size.

    Source: [AP] Gushchin et al., arXiv:2404.06957. Resizing back (bilinear), so that the model sees the size it is
    made for, and the share of 0.9 are (ours).
    """

    is_random: ClassVar[bool] = True
    share: Annotated[float, "(0, 1]"] = 0.9

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
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
class Resize(Plain):
    """Resize images by a factor and back to their size.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the factor of 0.5 and the low pass are (ours).
    """

    # Of both sides on the way out, in [1/16, 16]; above 1 the image is enlarged first.
    factor: Annotated[float, "[0.0625, 16]"] = 0.5
    # "nearest", "bilinear" or "bicubic"; the latter two low-pass the image when shrinking it.
    mode: Literal["nearest", "bilinear", "bicubic"] = "bilinear"

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        full = list(images.shape[-2:])
        for size in ([max(1, round(self.factor * side)) for side in full], full):
            images = functional.resize(images, size, interpolation=InterpolationMode(self.mode), antialias=True)
        return images.clamp(0, 1)
