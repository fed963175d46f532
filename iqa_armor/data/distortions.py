"""Graded distortions of 8-bit images, from barely visible (severity 0) to gross (severity 1)."""

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3)
Floats = NDArray[np.float32]
Distortion = Callable[[Pixels, float, Generator], Pixels]


def _between(low: float, high: float, severity: float) -> float:
    return float(low * (high / low) ** severity)


def _pixels(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)


def gaussian_blur(image: Pixels, severity: float, _rng: Generator) -> Pixels:
    """Blur with a Gaussian, σ = 0.5 to 5 pixels."""
    from scipy.ndimage import gaussian_filter

    sigma = _between(0.5, 5.0, severity)
    return _pixels(gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="nearest"))


def motion_blur(image: Pixels, severity: float, rng: Generator) -> Pixels:
    """Average along a line of 2 to 24 pixels in a random direction."""
    from scipy.signal import fftconvolve

    kernel = _line(_between(2.0, 24.0, severity), rng.uniform(0, np.pi))
    reach = kernel.shape[0] // 2
    padded = np.pad(image.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    return _pixels(fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)))


def _line(length: float, angle: float) -> Floats:
    """Return a normalized kernel (n, n), n odd, of an antialiased line through its middle."""
    reach = int(np.ceil(length / 2)) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = columns * np.sin(angle) - rows * np.cos(angle)
    kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def downscale(image: Pixels, severity: float, _rng: Generator) -> Pixels:
    """Shrink by a factor of 1.3 to 7 and enlarge again, both bicubic."""
    factor = _between(1.3, 7.0, severity)
    source = Image.fromarray(image)
    small = (max(round(source.width / factor), 4), max(round(source.height / factor), 4))
    shrunk = source.resize(small, Image.Resampling.BICUBIC)
    return np.asarray(shrunk.resize(source.size, Image.Resampling.BICUBIC))


def white_noise(image: Pixels, severity: float, rng: Generator) -> Pixels:
    """Add Gaussian noise of standard deviation 2.5 to 60, independent in each channel."""
    return _pixels(image + _between(2.5, 60.0, severity) * rng.standard_normal(image.shape, np.float32))


def impulse_noise(image: Pixels, severity: float, rng: Generator) -> Pixels:
    """Replace 0.1 to 20 % of the pixels by black or white."""
    share, draw = _between(0.001, 0.2, severity), rng.random(image.shape[:2])[..., None]
    return np.where(draw < share / 2, 0, np.where(draw > 1 - share / 2, 255, image)).astype(np.uint8)


def jpeg(image: Pixels, severity: float, _rng: Generator) -> Pixels:
    """Compress as JPEG with libjpeg's quality setting from 85 down to 3, color at half resolution."""
    return _recoded(image, "JPEG", quality=round(_between(85.0, 3.0, severity)), subsampling="4:2:0")


def jpeg2000(image: Pixels, severity: float, _rng: Generator) -> Pixels:
    """Compress as JPEG 2000 at a ratio of 8 to 160."""
    rates = [_between(8.0, 160.0, severity)]
    return _recoded(image, "JPEG2000", quality_mode="rates", quality_layers=rates, irreversible=True)


def _recoded(image: Pixels, encoder: str, **settings: object) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, encoder, **settings)
    with Image.open(file) as decoded:
        return np.array(decoded.convert("RGB"))


def quantization(image: Pixels, severity: float, _rng: Generator) -> Pixels:
    """Keep 40 to 3 evenly spaced levels per channel."""
    steps = round(_between(40.0, 3.0, severity)) - 1
    return _pixels(np.rint(image / 255.0 * steps) / steps * 255)


def contrast(image: Pixels, severity: float, _rng: Generator) -> Pixels:
    """Shrink all differences from the mean color to 90 down to 15 %."""
    mean = image.mean((0, 1), keepdims=True)
    return _pixels(mean + _between(0.9, 0.15, severity) * (image - mean))


def blur_jpeg(image: Pixels, severity: float, rng: Generator) -> Pixels:
    """Blur, then compress as JPEG, each a little weaker than alone."""
    return jpeg(gaussian_blur(image, 0.8 * severity, rng), 0.8 * severity, rng)


def blur_noise(image: Pixels, severity: float, rng: Generator) -> Pixels:
    """Blur, then add noise, as in a dark and unfocused exposure, each a little weaker than alone."""
    return white_noise(gaussian_blur(image, 0.8 * severity, rng), 0.8 * severity, rng)


_SINGLE = (gaussian_blur, motion_blur, downscale, white_noise, impulse_noise, jpeg, jpeg2000, quantization, contrast)
DISTORTIONS: Mapping[str, Distortion] = {each.__name__: each for each in (*_SINGLE, blur_jpeg, blur_noise)}


def distort(image: Pixels, kind: str, *, severity: float, rng: Generator) -> Pixels:
    """Return a copy of an image (H, W, 3) distorted as `kind` says; equal states of `rng` give equal bits."""
    if kind not in DISTORTIONS:
        raise ValueError(f"unknown distortion {kind!r}; known are {', '.join(DISTORTIONS)}")
    if not 0 <= severity <= 1:
        raise ValueError(f"severity must be in [0, 1], got {severity}")
    return DISTORTIONS[kind](image, severity, rng)
