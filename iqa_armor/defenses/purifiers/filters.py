"""Purifiers that filter images: blur, median, sharpening; and noise."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.defenses.base import Plain

Side = Annotated[int, "[3, 101]"]  # of a window, in pixels


class _Windowed(Plain):
    kernel: Side

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ValueError(f"{type(self).__name__} needs an odd kernel, got {self.kernel}")


@dataclass(frozen=True)
class Gaussian(_Windowed):
    """What filters with a Gaussian window share; the border is repeated.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the values, and repeating the border, are (ours).
    """

    kornia_name: ClassVar[str]
    sigma: Annotated[float, "(0, 100]"] = 1.0  # standard deviation, in pixels, in (0, 100]
    kernel: Side = 5  # side of the window in pixels, odd, from 3 to 101; the Gaussian is cut off beyond it

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        from kornia import filters

        window, sigmas = (self.kernel, self.kernel), (self.sigma, self.sigma)
        filtered = getattr(filters, self.kornia_name)(images, window, sigmas, border_type="replicate")
        return torch.as_tensor(filtered).clamp(0, 1)


@dataclass(frozen=True)
class Blur(Gaussian):
    """Blur images with a Gaussian; arguments and source as in `Gaussian`."""

    kornia_name: ClassVar[str] = "gaussian_blur2d"


@dataclass(frozen=True)
class Unsharp(Gaussian):
    """Sharpen images: add what a Gaussian blur takes away; arguments and source as in `Gaussian`."""

    kornia_name: ClassVar[str] = "unsharp_mask"


@dataclass(frozen=True)
class Median(_Windowed):
    """Replace every value of a channel by the median of a window with sides of `kernel` pixels, odd, from 3 to 101.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the side of 3 and repeating the border are (ours).
    """

    kernel: Side = 3

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        from kornia.filters import median_blur

        # kornia's own border would be black, or mirrored, by version.
        rim = self.kernel // 2
        bordered = functional.pad(images, (rim, rim, rim, rim), mode="replicate")
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
