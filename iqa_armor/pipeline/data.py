"""Look through a dataset before it is used: what it holds, and whether every image can be read."""

import math
from collections import Counter
from dataclasses import asdict
from typing import Any

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.direction import measure_direction
from iqa_armor.data.labelled import Problems
from iqa_armor.data.prepared import checked_size, each_read
from iqa_armor.progress import Progress, silent


def check_data(dataset: Dataset, *, progress: Progress = silent) -> tuple[dict[str, Any], Problems]:
    """Decode every image of a dataset once, as cheaply as its format allows; return what was found, and what is wrong.

    The former are plain values for JSON, None for nothing. Scores are higher for better images. Sizes are (height,
    width): those of the fewest and the most pixels and the commonest, the larger of two equally frequent, with the
    share of images that have it.
    """
    problems = Problems(dataset.spec)
    everything = [(images, index) for images in dataset.splits.values() for index in range(len(images))]
    read = each_read(checked_size, everything, problems, progress=progress, task="decoding images")
    sizes = Counter(read)
    direction, warnings = measure_direction(dataset, progress=progress), []
    if direction is not None and direction.is_suspicious:
        warnings.append(
            f"labels fall as {direction.measure} rises (SROCC {direction.correlation:.2f} on {direction.images} "
            "images); if small values mean good quality, turn them round: scores must rise with quality"
        )
    labels = dataset.labels if dataset.is_labelled else None
    return {
        "schema": "iqa-armor/data-check/1",
        "data": {"spec": dataset.spec, "fingerprint": dataset.fingerprint, "labels": labels},
        "splits": {split: _summary(images) for split, images in dataset.splits.items()},
        "sizes": _sizes(sizes),
        "direction": direction and {**asdict(direction), "suspicious": direction.is_suspicious},
        "warnings": warnings,
        "problems": problems.as_plain(),
    }, problems


def _summary(images: ImageSet) -> dict[str, Any]:
    if images.mos is None or not len(images):
        return {"images": len(images), "low": None, "high": None, "mean": None}
    mos = images.mos.double()
    return {"images": len(images), "low": float(mos.min()), "high": float(mos.max()), "mean": float(mos.mean())}


def _sizes(sizes: Counter[tuple[int, int]]) -> dict[str, Any] | None:
    if not sizes:
        return None
    ordered = sorted(sizes, key=lambda size: (math.prod(size), size))
    commonest = max(ordered, key=lambda size: (sizes[size], math.prod(size)))
    found = {"smallest": ordered[0], "largest": ordered[-1], "commonest": commonest}
    return {**found, "share": sizes[commonest] / sizes.total(), "different": len(sizes)}
