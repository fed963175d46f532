"""Purifiers that filter images: blur, median, sharpening; and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

LARGEST_KERNEL = 101
LARGEST_SIGMA = 100.0


@dataclass(frozen=True)
class Blur:
    """Blur images with a Gaussian.

    Args:
        sigma: Standard deviation, in pixels, in (0, 100].
        kernel: Side of the window in pixels, odd, from 3 to 101; the Gaussian is cut off beyond it.

    Raises:
        ValueError: If a value is out of range.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the values, and repeating the border, are (ours).
    """

    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = False

    sigma: float = 1.0
    kernel: int = 5

    def __post_init__(self) -> None:
        _check("blur", self.kernel, self.sigma)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1]; draws nothing."""
        from kornia.filters import gaussian_blur2d

        window, sigmas = (self.kernel, self.kernel), (self.sigma, self.sigma)
        return torch.as_tensor(gaussian_blur2d(images, window, sigmas, border_type="replicate")).clamp(0, 1)


@dataclass(frozen=True)
class Median:
    """Replace every pixel value by the median of those around it, in each color channel.

    Args:
        kernel: Side of the window in pixels, odd, from 3 to 101.

    Raises:
        ValueError: If the side is out of range.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the side of 3 and repeating the border are (ours).
    """

    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = False

    kernel: int = 3

    def __post_init__(self) -> None:
        _check("median", self.kernel)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1]; draws nothing."""
        from kornia.filters import median_blur

        # kornia's own border would be black, or mirrored, by version.
        rim = self.kernel // 2
        bordered = functional.pad(images, (rim, rim, rim, rim), mode="replicate")
        filtered: Tensor = median_blur(bordered, (self.kernel, self.kernel))
        return filtered[..., rim:-rim, rim:-rim].clamp(0, 1)


@dataclass(frozen=True)
class Unsharp:
    """Sharpen images: add what a Gaussian blur takes away.

    Args:
        sigma: Standard deviation of the blur, in pixels, in (0, 100].
        kernel: Side of its window in pixels, odd, from 3 to 101.

    Raises:
        ValueError: If a value is out of range.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the values, and repeating the border, are (ours).
    """

    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = False

    sigma: float = 1.0
    kernel: int = 5

    def __post_init__(self) -> None:
        _check("unsharp", self.kernel, self.sigma)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1]; draws nothing."""
        from kornia.filters import unsharp_mask

        window, sigmas = (self.kernel, self.kernel), (self.sigma, self.sigma)
        return torch.as_tensor(unsharp_mask(images, window, sigmas, border_type="replicate")).clamp(0, 1)


@dataclass(frozen=True)
class Noise:
    """Add Gaussian noise to every pixel value.

    Args:
        sigma: Standard deviation, pixels being in [0, 1], in (0, 1].

    Raises:
        ValueError: If the deviation is out of range.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the deviation of 0.02 is (ours).
    """

    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = True

    sigma: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise ValueError(f"noise needs a sigma above 0 and at most 1, pixels being in [0, 1], got {self.sigma}")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1], each with noise of its own."""
        noise = torch.randn(images.shape, generator=generator, device=generator.device)
        return (images + self.sigma * noise.to(images)).clamp(0, 1)


def _check(owner: str, kernel: int, sigma: float = 1.0) -> None:
    if not 3 <= kernel <= LARGEST_KERNEL or kernel % 2 == 0:
        raise ValueError(f"{owner} needs an odd kernel from 3 to {LARGEST_KERNEL}, got {kernel}")
    if not 0 < sigma <= LARGEST_SIGMA:
        raise ValueError(f"{owner} needs a sigma above 0 and at most {LARGEST_SIGMA:g} pixels, got {sigma}")
