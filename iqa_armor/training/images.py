"""The images that networks are fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from iqa_armor.data.base import ImageSet, held_out
from iqa_armor.data.prepared import PreparedImages, load_prepared, worker_count
from iqa_armor.errors import DataError
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress
from iqa_armor.recipe import Training


@dataclass(frozen=True)
class TrainingImages:
    """Training images of one size, prepared for one model.

    Args:
        fitted: Nine tenths, which a network is fitted to; at least two.
        held_out: One tenth, which chooses the epoch.

    Raises:
        DataError: If there are fewer, or images differ in size.
    """

    fitted: PreparedImages
    held_out: PreparedImages

    def __post_init__(self) -> None:
        if len(self.fitted) < 2:
            raise DataError(f"fitting needs at least two training images, got {len(self.fitted)}")
        parts = (self.fitted, self.held_out)
        sizes = sorted({tuple(image.shape[-2:]) for images in parts for image in images.stored or ()})
        if len(sizes) > 1:
            raise DataError(
                f"training images differ in size, e.g. {sizes[0][0]}x{sizes[0][1]} and {sizes[-1][0]}x{sizes[-1][1]}; "
                "resize them all with --input-size HEIGHTxWIDTH"
            )

    @property
    def mos(self) -> Tensor:
        """Opinion scores (N,) of the images fitted to."""
        return self.fitted.mos

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all images, those fitted to first."""
        return (*self.fitted.images.names, *self.held_out.images.names)

    def loader(self, settings: Training, device: torch.device) -> DataLoader[Any]:
        """Return shuffled batches (images (N, 3, H, W), scores (N,), indices (N,)) of the images fitted to."""
        workers, count = worker_count(self.fitted), len(self.fitted)
        return DataLoader(
            self.fitted,
            min(settings.batch_size, count),
            shuffle=True,
            drop_last=count % settings.batch_size == 1,  # one image has no correlation and breaks batch norm
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(settings.seed),
        )


def load_training_images(images: ImageSet, model: QualityModel, progress: Progress) -> TrainingImages:
    """Read and check every training image.

    Raises:
        DataError: If some cannot be read, differ in size, or are too few.
    """
    if len(images) < 4:
        raise DataError(f"fitting a model takes at least 4 scored training images; there are too few: {len(images)}")
    fitted, held = held_out(images)
    return TrainingImages(
        load_prepared(fitted, model.prepare, progress=progress, task="reading training images"),
        load_prepared(held, model.prepare, progress=progress, task="reading held-out images"),
    )
