"""A dataset made on the spot: synthetic scenes, graded distortions, full-reference scores."""

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from iqa_armor.data.base import SPLITS, Dataset, ImageSet, hashed_splits
from iqa_armor.data.scenes import render_scene
from iqa_armor.errors import DataError
from iqa_armor.machine import usable_processors
from iqa_armor.progress import Progress, silent

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
    bicubic = Image.Resampling.BICUBIC
    return np.asarray(source.resize(small, bicubic).resize(source.size, bicubic))


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


def _blurred_before(other: Distortion) -> Distortion:
    """Blur first, as in a dark and unfocused exposure, each a little weaker than alone."""
    return lambda image, severity, rng: other(gaussian_blur(image, 0.8 * severity, rng), 0.8 * severity, rng)


_SINGLE = (gaussian_blur, motion_blur, downscale, white_noise, impulse_noise, jpeg, jpeg2000, quantization, contrast)
DISTORTIONS: Mapping[str, Distortion] = {
    **{each.__name__: each for each in _SINGLE},
    "blur_jpeg": _blurred_before(jpeg),
    "blur_noise": _blurred_before(white_noise),
}
IMAGES_PER_SCENE = 1 + len(DISTORTIONS)
_DESTROYED = 0.3  # chromatic multi-scale GMSD of a destroyed image


def distort(image: Pixels, kind: str, *, severity: float, rng: Generator) -> Pixels:
    """Return a copy of an image (H, W, 3) distorted as `kind` says; equal states of `rng` give equal bits."""
    if kind not in DISTORTIONS:
        raise ValueError(f"unknown distortion {kind!r}; known are {', '.join(DISTORTIONS)}")
    if not 0 <= severity <= 1:
        raise ValueError(f"severity must be in [0, 1], got {severity}")
    return DISTORTIONS[kind](image, severity, rng)


@dataclass(frozen=True)
class SyntheticSettings:
    """What a synthetic dataset consists of; each scene gives one pristine image and one per distortion."""

    scenes: int = 48
    height: int = 192
    width: int = 256
    seed: int = 0


@dataclass(frozen=True)
class StoredImages:
    """Reader of images held in memory, uint8 (N, 3, H, W)."""

    pixels: Tensor

    def __call__(self, index: int) -> Tensor:
        return self.pixels[index].clone()


class Scene(NamedTuple):
    """Names and pixels, uint8 (K, 3, H, W), of all images of one scene, the pristine one first."""

    names: tuple[str, ...]
    pixels: Tensor


def open_synthetic(spec: str, settings: str, *, seed: int = 0, progress: Progress = silent) -> Dataset:
    """Return the dataset that a spec such as `synthetic:scenes=96,size=192x256,seed=3` describes.

    A scene and all its distorted images belong to one split. Images and scores depend on these settings alone.
    """
    chosen = parse_settings(settings, seed=seed)
    scenes, scores = list[Scene](), list[Tensor]()
    with ThreadPoolExecutor(min(chosen.scenes, usable_processors())) as pool:
        # Scored in this thread: several teams of torch's own threads would slow each other down.
        for scene in pool.map(lambda index: make_scene(chosen, index), range(chosen.scenes)):
            scenes.append(scene)
            scores.append(reference_scores(scene.pixels, scene.pixels[:1]))
            progress("generating images", len(scenes), chosen.scenes)
    names = tuple(name for scene in scenes for name in scene.names)
    everything = ImageSet(names, StoredImages(torch.cat([scene.pixels for scene in scenes])), torch.cat(scores))
    splits = hashed_splits([f"{chosen.seed}/{index}" for index in range(chosen.scenes)])
    split_of = [split for split in splits for _ in range(IMAGES_PER_SCENE)]
    sets = {name: everything.select([i for i, split in enumerate(split_of) if split == name]) for name in SPLITS}
    return Dataset(spec, sets, is_synthetic=True, labels="computed by full-reference metrics, not human")


def make_scene(settings: SyntheticSettings, index: int) -> Scene:
    """Return scene `index`: pristine, and once under every distortion at a severity drawn from [0, 1]."""
    pristine = render_scene(np.random.default_rng([settings.seed, index]), settings.height, settings.width)
    names, images = [f"scene-{index:04d}/pristine"], [pristine]
    for kind in DISTORTIONS:
        # A seed per name keeps every distortion's draws when another kind is added.
        rng = np.random.default_rng([settings.seed, index, zlib.crc32(kind.encode())])
        severity = round(rng.random(), 2)
        names.append(f"scene-{index:04d}/{kind}-{severity:.2f}")
        images.append(distort(pristine, kind, severity=severity, rng=rng))
    return Scene(tuple(names), stacked(images))


def stacked(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def reference_scores(images: Tensor, reference: Tensor) -> Tensor:
    """Return the quality, 0 to 100, of images uint8 (N, 3, H, W) against their pristine original (1, 3, H, W).

    The mean of HaarPSI and of 1 − (chromatic multi-scale GMSD) / 0.3 (ours). Of the metrics tried (also MDSI, FSIMc,
    VSI, VIF, MS-SSIM) these two fall with the severity of every distortion, reach similar values at the strong end of
    all of them, leave 100 smoothly, and are fast.

    Source: Reisenhofer et al., "A Haar Wavelet-Based Perceptual Similarity Index for Image Quality Assessment", 2018,
    arXiv:1607.06140; Zhang et al., "Gradient Magnitude Similarity Deviation on Multiple Scales for Color Image Quality
    Assessment", ICASSP 2017.
    """
    from piq.gmsd import multi_scale_gmsd
    from piq.haarpsi import haarpsi

    distorted, original = images.float(), reference.float().expand(len(images), -1, -1, -1)
    similarity = haarpsi(distorted, original, data_range=255.0, reduction="none")
    deviation = multi_scale_gmsd(distorted, original, data_range=255.0, chromatic=True, reduction="none").flatten()
    scores: Tensor = (50 * similarity + 50 * (1 - deviation / _DESTROYED)).clamp(0, 100)
    return scores.mul(100).round().div(100)  # more digits would differ between processors


def parse_settings(text: str, *, seed: int = 0) -> SyntheticSettings:
    """Return the settings of a text: a number of scenes, or pairs `key=value` of scenes, size=HEIGHTxWIDTH and seed."""
    values = {"seed": seed}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = part.partition("=") if "=" in part else ("scenes", "", part)
        key, sides = key.strip().lower(), value.strip().lower().split("x")
        if key not in ("size", *SyntheticSettings.__annotations__):
            raise DataError(f"synthetic: unknown setting {key!r}; known are scenes, size (HEIGHTxWIDTH) and seed")
        # `int` takes digits of other scripts, signs and underscores too.
        if len(sides) != 1 + (key == "size") or not all(re.fullmatch("[0-9]{1,19}", side) for side in sides):
            example = "write for example scenes=48,size=192x256,seed=3"
            raise DataError(f"synthetic: {key}={value.strip()} cannot be read; {example}")
        values |= dict(zip(("height", "width") if key == "size" else (key,), map(int, sides), strict=True))
    chosen = SyntheticSettings(**values)
    limits = {"scenes": (3, 2000), "height": (64, 2048), "width": (64, 2048), "seed": (0, 2**63 - 1)}
    for field, (low, high) in limits.items():
        if not low <= getattr(chosen, field) <= high:
            raise DataError(f"synthetic: {field} must be from {low} to {high}, got {getattr(chosen, field)}")
    return chosen
