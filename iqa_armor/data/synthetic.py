"""A dataset made on the spot: synthetic scenes, graded distortions, full-reference scores."""

import re
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iqa_armor.data.base import SPLITS, Dataset, ImageSet, hashed_splits
from iqa_armor.data.distortions import DISTORTIONS, distort
from iqa_armor.data.scenes import render_scene
from iqa_armor.errors import DataError
from iqa_armor.machine import usable_processors
from iqa_armor.progress import Progress, silent

IMAGES_PER_SCENE = 1 + len(DISTORTIONS)
_DESTROYED = 0.3  # chromatic multi-scale GMSD of a destroyed image


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

    A scene and all its distorted images belong to one split, 70/10/20 % of the scenes. Images and scores depend on the
    settings behind the colon alone (`parse_settings`; `seed` where they name none), not on the number of processors.
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
    """Return images (H, W, 3) as one uint8 tensor (N, 3, H, W)."""
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
