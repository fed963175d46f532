"""Purifiers that filter images: blur, median, sharpening; and noise."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from iqa_armor.defenses.base import Plain
from iqa_armor.limits import check_limits


@dataclass(frozen=True)
class Windowed(Plain):
    """What filters with a Gaussian window share; the border is repeated.

    Args:
        sigma: Standard deviation, in pixels, in (0, 100].
        kernel: Side of the window in pixels, odd, from 3 to 101; the Gaussian is cut off beyond it.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the values, and repeating the border, are (ours).
    """

    kornia_name: ClassVar[str]
    sigma: float = 1.0
    kernel: int = 5

    def __post_init__(self) -> None:
        _check_kernel(self, self.kernel)
        check_limits(self, sigma="(0, 100]")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        from kornia import filters

        window, sigmas = (self.kernel, self.kernel), (self.sigma, self.sigma)
        filtered = getattr(filters, self.kornia_name)(images, window, sigmas, border_type="replicate")
        return torch.as_tensor(filtered).clamp(0, 1)


@dataclass(frozen=True)
class Blur(Windowed):
    """Blur images with a Gaussian; arguments and source as in `Windowed`."""

    kornia_name: ClassVar[str] = "gaussian_blur2d"


@dataclass(frozen=True)
class Unsharp(Windowed):
    """Sharpen images: add what a Gaussian blur takes away; arguments and source as in `Windowed`."""

    kornia_name: ClassVar[str] = "unsharp_mask"


@dataclass(frozen=True)
class Median(Plain):
    """Replace every value of a channel by the median of a window with sides of `kernel` pixels, odd, from 3 to 101.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the side of 3 and repeating the border are (ours).
    """

    kernel: int = 3

    def __post_init__(self) -> None:
        _check_kernel(self, self.kernel)

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
    sigma: float = 0.02

    def __post_init__(self) -> None:
        check_limits(self, sigma="(0, 1]")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, device=generator.device)
        return (images + self.sigma * noise.to(images)).clamp(0, 1)


def _check_kernel(owner: object, kernel: int) -> None:
    check_limits(owner, kernel="[3, 101]")
    if kernel % 2 == 0:
        raise ValueError(f"{type(owner).__name__} needs an odd kernel, got {kernel}")
