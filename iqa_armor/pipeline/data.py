"""Look through a dataset: what it holds, and whether every image can be read and labels rise with quality."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from iqa_armor.data.base import Dataset, ImageSet, ReadImage, evenly
from iqa_armor.data.labelled import Problems
from iqa_armor.data.prepared import checked_size, each_read
from iqa_armor.errors import DataError
from iqa_armor.metrics.correlation import chance_srocc, srocc
from iqa_armor.metrics.fidelity import psnr
from iqa_armor.progress import Progress, silent

SAMPLE = 200
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def check_data(dataset: Dataset, *, progress: Progress = silent) -> tuple[dict[str, Any], Problems]:
    """Decode every image of a dataset once, as cheaply as its format allows; return what was found, and what is wrong.

    The former are plain values for JSON, None for nothing; sizes are (height, width).
    """
    problems = Problems(dataset.spec)
    everything = [(images, index) for images in dataset.splits.values() for index in range(len(images))]
    sizes = Counter(each_read(checked_size, everything, problems, progress=progress, task="decoding images"))
    direction, warnings = measure_direction(dataset, progress=progress), []
    if direction is not None and direction.is_suspicious:
        said = f"SROCC {direction.correlation:.2f} on {direction.images} images"
        advice = "if small values mean good quality, turn them round: scores must rise with quality"
        warnings.append(f"labels fall as {direction.measure} rises ({said}); {advice}")
    labels = dataset.labels if dataset.is_labelled else None
    data = {"spec": dataset.spec, "fingerprint": dataset.fingerprint, "labels": labels}
    splits = {split: _summary(images) for split, images in dataset.splits.items()}
    found = {"schema": "iqa-armor/data-check/1", "data": data, "splits": splits, "sizes": _sizes(sizes)}
    told = direction and {**asdict(direction), "suspicious": direction.is_suspicious}
    return {**found, "direction": told, "warnings": warnings, "problems": problems.found}, problems


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


@dataclass(frozen=True)
class Direction:
    """How labels go with a measurement that should rise with quality."""

    measure: str  # "PSNR to the reference" or "sharpness"
    correlation: float  # SROCC of the labels with it, in [-1, 1]; nan where either is constant
    images: int

    @property
    def is_suspicious(self) -> bool:
        """Whether labels fall by more than chance: below −0.2 and −`chance_srocc`, on ten images or more (ours)."""
        return self.images >= 10 and self.correlation < -max(0.2, chance_srocc(self.images))


def measure_direction(dataset: Dataset, *, progress: Progress = silent) -> Direction | None:
    """Return how the labels of a sample of the images go with PSNR or, without references, with sharpness.

    PSNR is meant where every image has its pristine original. Sharpness is a weak sign: it only catches labels that
    fall with quality where blur decides. At most 200 images are read, spread evenly over the splits; those that cannot
    be read or differ in size from their reference are passed over. Labels that are missing, or generated, give None.
    """
    if dataset.is_synthetic or not dataset.is_labelled:
        return None
    everything = [(images, index) for images in dataset.splits.values() for index in range(len(images))]
    sample = [everything[place] for place in evenly(len(everything), SAMPLE)]
    has_references = all(images.references is not None for images, _ in sample)
    values, labels = [], []
    for done, (images, index) in enumerate(sample, start=1):
        value = _measured(images, index, images.references if has_references else None)
        if value is not None and images.mos is not None:
            values.append(value)
            labels.append(float(images.mos[index]))
        progress("checking the labels' direction", done, len(sample))
    correlation = srocc(torch.tensor(values), torch.tensor(labels)) if values else torch.tensor(math.nan)
    return Direction("PSNR to the reference" if has_references else "sharpness", float(correlation), len(values))


def sharpness(image: Tensor) -> Tensor:
    """Return the variance of the Laplacian of an image's luma, uint8 (3, H, W), in squared gray levels; 0 below 3×3.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000; without borders (ours).
    """
    if min(image.shape[-2:]) < 3:
        return torch.zeros(())
    luma = (image.float() * torch.tensor(_LUMA).view(3, 1, 1)).sum(0)
    neighbors = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return (neighbors - 4 * luma[1:-1, 1:-1]).var(correction=0)


def _measured(images: ImageSet, index: int, references: ReadImage | None) -> float | None:
    try:
        image, reference = images[index], references and references(images.positions[index])
    except DataError:
        return None
    if reference is None:
        return float(sharpness(image))
    is_pair = image.shape == reference.shape
    return float(psnr(reference.unsqueeze(0) / 255, image.unsqueeze(0) / 255)) if is_pair else None
