"""Compare an exported file with the model that it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from iqa_armor.data.distortions import DISTORTIONS, distort
from iqa_armor.data.scenes import render_scene
from iqa_armor.errors import ArmorError
from iqa_armor.export.capture import eager_scores
from iqa_armor.export.formats import Score
from iqa_armor.models.base import QualityModel

TOLERANCE = 1e-3
BATCHES = (1, 2, 5)  # of the recorded size
OTHER_BATCH = 2  # of every other size
_SIDES = (64, 256)  # of a rendered scene, which is then resized


@dataclass(frozen=True)
class Agreement:
    """How closely an exported file's scores follow eager ones."""

    largest_error: float  # largest |exported − eager|, in model units
    share_of_range: float
    range: float  # score range that it is measured against
    range_measured_here: bool  # whether that is the spread of the check's own images, the model recording no range
    images: int  # number of images, of these batch sizes and (height, width)
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]


def natural_batches(sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return batches of rendered scenes, pristine and distorted, float (N, 3, H, W) in [0, 1].

    The first of the sizes (H, W) comes in several batch sizes, the others once.
    """
    height, width = (min(max(side, _SIDES[0]), _SIDES[1]) for side in sizes[0])
    scenes = _scenes(max(BATCHES), height, width)
    batches = []
    for size in sizes:
        fitted = functional.interpolate(scenes, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        counts = BATCHES if size == sizes[0] else (OTHER_BATCH,)
        batches += [fitted[:count] for count in counts]
    return batches


def _scenes(count: int, height: int, width: int) -> Tensor:
    images = []
    for index, kind in zip(range(count), DISTORTIONS, strict=False):
        rng = np.random.default_rng([7, index])
        scene = render_scene(rng, height, width)
        images.append(distort(scene, kind, severity=0.5, rng=rng) if index % 2 else scene)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def compare(model: QualityModel, score: Score, batches: Sequence[Tensor]) -> Agreement:
    """Return how a file's scores of batches of images (N, 3, H, W) compare with an eager model's on the CPU.

    Raises ArmorError if they differ by more than 1e-3 of the score range, in number or by a NaN; with figures.
    """
    expected = [eager_scores(model, images) for images in batches]
    given = [score(images) for images in batches]
    for images, ours, theirs in zip(batches, expected, given, strict=True):
        if theirs.shape != ours.shape:
            raise ArmorError(f"images {tuple(images.shape)} gave scores {tuple(theirs.shape)} in the exported file")
    eager, exported = torch.cat(expected).double(), torch.cat(given).double()
    error = float((exported - eager).abs().max())
    # Of constant scores a thousandth of their size.
    spread = max(eager.max() - eager.min(), eager.abs().max() / 1000, torch.tensor(1e-12))
    width = float(spread) if model.scale is None else model.scale.width
    found = Agreement(
        largest_error=error,
        share_of_range=error / width,
        range=width,
        range_measured_here=model.scale is None,
        images=len(eager),
        batches=tuple(sorted({len(images) for images in batches})),
        sizes=tuple(dict.fromkeys((images.shape[-2], images.shape[-1]) for images in batches)),
    )
    if not found.share_of_range <= TOLERANCE:  # NaN fails too
        sizes = ", ".join("{}x{}".format(*size) for size in found.sizes)
        raise ArmorError(
            f"the exported file scores differently: up to {found.largest_error:.3g} on {found.images} images "
            f"({sizes}), {found.share_of_range:.2%} of the score range {width:.4g}; at most {TOLERANCE:.1%} is allowed"
        )
    return found
