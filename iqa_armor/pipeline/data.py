"""Look through a dataset before it is used: what it holds, and whether every image can be read."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from iqa_armor.data.base import Dataset, ImageSet, Split
from iqa_armor.data.direction import Direction, measure_direction
from iqa_armor.data.labelled import Problems
from iqa_armor.data.prepared import checked_size, each_read
from iqa_armor.progress import Progress, silent

Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class SplitSummary:
    """One split: its images and scores (higher is better), which are None where it has none."""

    split: Split
    images: int
    low: float | None
    high: float | None
    mean: float | None


@dataclass(frozen=True)
class SizeSummary:
    """Sizes (height, width): the fewest and the most pixels; the commonest, the larger of two equally frequent.

    `share` in (0, 1] is the part of the images that have the commonest, `different` how many sizes there are.
    """

    smallest: Size
    largest: Size
    commonest: Size
    share: float
    different: int


@dataclass(frozen=True)
class DataCheck:
    """What a dataset holds, what may be wrong with it (warnings) and what is (problems); None is nothing."""

    spec: str
    fingerprint: str
    labels: str | None
    splits: tuple[SplitSummary, ...]
    sizes: SizeSummary | None
    direction: Direction | None
    warnings: tuple[str, ...]
    problems: Problems

    def as_plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        direction = self.direction
        return {
            "schema": "iqa-armor/data-check/1",
            "data": {"spec": self.spec, "fingerprint": self.fingerprint, "labels": self.labels},
            "splits": {parts.pop("split"): parts for parts in map(asdict, self.splits)},
            "sizes": self.sizes and asdict(self.sizes),
            "direction": direction and {**asdict(direction), "suspicious": direction.is_suspicious},
            "warnings": list(self.warnings),
            "problems": self.problems.as_plain(),
        }


def check_data(dataset: Dataset, *, progress: Progress = silent) -> DataCheck:
    """Decode every image of a dataset once, as cheaply as its format allows, and return what was found."""
    problems = Problems(dataset.spec)
    everything = [(images, index) for images in dataset.splits.values() for index in range(len(images))]
    read = each_read(checked_size, everything, problems, progress=progress, task="decoding images")
    sizes = Counter(size for chunk in read for size in chunk)
    direction = measure_direction(dataset, progress=progress)
    return DataCheck(
        spec=dataset.spec,
        fingerprint=dataset.fingerprint,
        labels=dataset.labels if dataset.is_labelled else None,
        splits=tuple(_summary(split, images) for split, images in dataset.splits.items()),
        sizes=_size_summary(sizes),
        direction=direction,
        warnings=(_warning(direction),) if direction is not None and direction.is_suspicious else (),
        problems=problems,
    )


def _summary(split: Split, images: ImageSet) -> SplitSummary:
    if images.mos is None or not len(images):
        return SplitSummary(split, len(images), None, None, None)
    mos = images.mos.double()
    return SplitSummary(split, len(images), float(mos.min()), float(mos.max()), float(mos.mean()))


def _size_summary(sizes: Counter[Size]) -> SizeSummary | None:
    if not sizes:
        return None
    ordered = sorted(sizes, key=lambda size: (math.prod(size), size))
    commonest = max(ordered, key=lambda size: (sizes[size], math.prod(size)))
    return SizeSummary(ordered[0], ordered[-1], commonest, sizes[commonest] / sizes.total(), len(sizes))


def _warning(direction: Direction) -> str:
    return (
        f"labels fall as {direction.measure} rises (SROCC {direction.correlation:.2f} on {direction.images} images); "
        "if small values mean good quality, turn them round: scores must rise with quality"
    )
