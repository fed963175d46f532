"""Purifiers of plain arithmetic: filters, noise, fewer bits, moved pixels, and the sides that it asks for."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.defenses.base import Plain
from iqa_armor.limits import Limited

Side = Annotated[int, "[3, 101]"]  # of a window, in pixels


class _Windowed(Plain):
    kernel: Side

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ValueError(f"{type(self).__name__} needs an odd kernel, got {self.kernel}")


@dataclass(frozen=True)
class Blur(_Windowed):
    """Blur images with a Gaussian.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the values, and repeating the border, are (ours).
    """

    kornia_name: ClassVar[str] = "gaussian_blur2d"
    sigma: Annotated[float, "(0, 100]"] = 1.0  # standard deviation, in pixels, in (0, 100]
    kernel: Side = 5  # side of the window in pixels, odd, from 3 to 101; the Gaussian is cut off beyond it

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        from kornia import filters

        window, sigmas = (self.kernel, self.kernel), (self.sigma, self.sigma)
        filtered = getattr(filters, self.kornia_name)(images, window, sigmas, border_type="replicate")
        return torch.as_tensor(filtered).clamp(0, 1)


@dataclass(frozen=True)
class Unsharp(Blur):
    """Sharpen images: add what a Gaussian blur takes away; arguments and source as in `Blur`."""

    kornia_name: ClassVar[str] = "unsharp_mask"


@dataclass(frozen=True)
class Median(_Windowed):
    """Replace every value of a channel by the median of a window with sides of `kernel` pixels, odd, from 3 to 101.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the side of 3 and repeating the border are (ours).
    """

    kernel: Side = 3

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        from kornia.filters import median_blur

        rim = self.kernel // 2
        bordered = functional.pad(images, (rim,) * 4, mode="replicate")  # kornia's border is black or mirrored
        filtered: Tensor = median_blur(bordered, (self.kernel, self.kernel))
        return filtered[..., rim:-rim, rim:-rim].clamp(0, 1)


@dataclass(frozen=True)
class Noise(Plain):
    """Add Gaussian noise of standard deviation `sigma`, in (0, 1], to every pixel value.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the deviation of 0.02 is (ours).
    """

    is_random: ClassVar[bool] = True
    sigma: Annotated[float, "(0, 1]"] = 0.02

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, device=generator.device)
        return (images + self.sigma * noise.to(images)).clamp(0, 1)


@dataclass(frozen=True)
class DiffJPEG(Plain):
    """Quantise images as JPEG does at libjpeg's `quality`, from 1 to 100, with rounding that has a gradient.

    Source: [AP] Gushchin et al., arXiv:2404.06957; kornia's form of Reich et al., "Differentiable JPEG: The Devil is in
    the Details", WACV 2024. The border repeated to multiples of 16 pixels, and Pillow's quality, 75, are (ours).
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
    """Compress images as JPEG files with halved color resolution, and read them; attackers differentiate `DiffJPEG`."""

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

    Source: [AP] Gushchin et al., arXiv:2404.06957; as bit depth in Xu et al., "Feature Squeezing", NDSS 2018,
    arXiv:1704.01155, Section III-A. The 32 levels are (ours).
    """

    is_differentiable: ClassVar[bool] = False  # attackers pass it straight through
    levels: Annotated[int, "[2, 256]"] = 32

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        steps = self.levels - 1
        return ((images.detach() * steps).round() / steps).clamp(0, 1)


def on_padded(purify: Callable[[Tensor], Tensor], images: Tensor, *, multiple: int = 1, least: int = 1) -> Tensor:
    """Return what a map gives of images repeated to the right and below to such sides, without these, in [0, 1]."""
    height, width = images.shape[-2:]
    right, below = (max(side, least) + -max(side, least) % multiple - side for side in (width, height))
    padded = functional.pad(images, (0, right, 0, below), mode="replicate") if right or below else images
    return purify(padded)[..., :height, :width].clamp(0, 1)


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
    degrees: Annotated[float, "[-180, 180]"] = 5.0  # angle, counter-clockwise
    random: bool = False  # whether each image draws its own angle, uniformly from -degrees to degrees

    @property
    def is_random(self) -> bool:
        return self.random

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        from kornia.geometry.transform import rotate

        degrees = torch.full((len(images),), self.degrees, device=generator.device)
        if self.random:
            degrees *= 2 * torch.rand(len(images), generator=generator, device=generator.device) - 1
        turned = rotate(images, degrees.to(images), mode="bilinear", padding_mode="reflection")
        return torch.as_tensor(turned).clamp(0, 1)


@dataclass(frozen=True)
class Crop(Plain):
    """Cut a random part out of each image, a `share` in (0, 1] of its height and width, and resize it to its size.

    Source: [AP] Gushchin et al., arXiv:2404.06957. Resizing back (bilinear) and the share of 0.9 are (ours).
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

    factor: Annotated[float, "[0.0625, 16]"] = 0.5  # of both sides on the way out; above 1 the image is enlarged first
    mode: Literal["nearest", "bilinear", "bicubic"] = "bilinear"  # the latter two low-pass an image that they shrink

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        full = list(images.shape[-2:])
        for size in ([max(1, round(self.factor * side)) for side in full], full):
            images = functional.resize(images, size, interpolation=InterpolationMode(self.mode), antialias=True)
        return images.clamp(0, 1)
