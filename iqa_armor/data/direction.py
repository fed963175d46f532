"""Whether labels rise with quality, as far as a cheap measurement of the images can tell."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from iqa_armor.data.base import Dataset, ImageSet, ReadImage, evenly
from iqa_armor.errors import DataError
from iqa_armor.metrics.correlation import chance_srocc, srocc
from iqa_armor.metrics.fidelity import psnr
from iqa_armor.progress import Progress, silent

SAMPLE = 200
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Direction:
    """How labels go with a measurement that should rise with quality."""

    measure: str  # "PSNR to the reference" or "sharpness"
    correlation: float  # SROCC of the labels with it, in [-1, 1]; nan where either is constant
    images: int

    @property
    def is_suspicious(self) -> bool:
        """Whether the labels fall with the measurement, by more than chance and weak relations explain (ours).

        The bound is −0.2 or −`chance_srocc`, whichever is lower; fewer than ten images say nothing.
        """
        return self.images >= 10 and self.correlation < -max(0.2, chance_srocc(self.images))


def measure_direction(dataset: Dataset, *, progress: Progress = silent) -> Direction | None:
    """Return how the labels of a sample of the images go with PSNR or, without references, with sharpness.

    PSNR is meant where every image has its pristine original. Sharpness is a weak sign: noise raises it, and a sharp
    photograph may be bad for other reasons; it only catches labels that fall with quality where blur decides. Images
    that cannot be read or differ in size from their reference are passed over.

    At most 200 images are read, spread evenly over the splits. Labels that are missing, or generated, which rise by
    construction, give None.
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
    """Return the variance of the Laplacian of the luma of an image uint8 (3, H, W): large where edges are sharp.

    It is in squared gray levels; 0 for images smaller than 3×3.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000; the Laplacian of the four
    neighbors, image borders left out (ours).
    """
    if min(image.shape[-2:]) < 3:
        return torch.zeros(())
    luma = (image.float() * torch.tensor(_LUMA).view(3, 1, 1)).sum(0)
    middle = luma[1:-1, 1:-1]
    neighbors = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return (neighbors - 4 * middle).var(correction=0)


def _measured(images: ImageSet, index: int, references: ReadImage | None) -> float | None:
    try:
        image = images[index]
        reference = image if references is None else references(images.positions[index])
    except DataError:
        return None
    if references is None:
        return float(sharpness(image))
    is_pair = image.shape == reference.shape
    return float(psnr(reference.unsqueeze(0) / 255, image.unsqueeze(0) / 255)) if is_pair else None
