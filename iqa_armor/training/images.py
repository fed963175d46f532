"""The images that networks are fitted to, and their scores."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader

from iqa_armor.attacks.base import frozen
from iqa_armor.data.base import ImageSet, held_out
from iqa_armor.data.prepared import PreparedImages, load_prepared, worker_count
from iqa_armor.errors import DataError
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent
from iqa_armor.recipe import Training

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingImages:
    """Training images of one size, prepared for one model; a DataError if they differ in size or are too few."""

    fitted: PreparedImages  # nine tenths, which a network is fitted to; at least two
    held_out: PreparedImages  # one tenth, which chooses the epoch
    unlabelled: PreparedImages | None = None  # images without scores, which a teacher scores

    def __post_init__(self) -> None:
        if len(self.fitted) < 2:
            raise DataError(f"fitting needs at least two training images, got {len(self.fitted)}")
        parts = [part for part in (self.fitted, self.held_out, self.unlabelled) if part is not None]
        sizes = sorted({tuple(image.shape[-2:]) for part in parts for image in part.stored or ()})
        if len(sizes) > 1:
            least, most = ("x".join(map(str, sizes[place])) for place in (0, -1))
            told = f"training images differ in size, e.g. {least} and {most}"
            raise DataError(f"{told}; resize them all with --input-size HEIGHTxWIDTH")

    @property
    def mos(self) -> Tensor:
        """Opinion scores (N,) of the images fitted to."""
        return self.fitted.mos

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.fitted.images.names, *self.held_out.images.names)

    @property
    def all_mos(self) -> Tensor:
        """Opinion scores (N,) of all images, in the order of `names`."""
        return torch.cat([self.fitted.mos, self.held_out.mos])

    def digest(self) -> str:
        return " ".join(part.digest() for part in (self.fitted, self.held_out, self.unlabelled) if part is not None)

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


def drawn(images: PreparedImages, count: int) -> Tensor:
    """Return so many images (count, 3, H, W), drawn from torch's own generator, which checkpoints keep."""
    return torch.stack([images[i][0] for i in torch.randint(len(images), (count,)).tolist()])


def load_training_images(
    images: ImageSet, model: QualityModel, progress: Progress, *, unlabelled: ImageSet | None = None
) -> TrainingImages:
    """Read every training image; a DataError if some cannot be read, differ in size, or are too few."""
    if len(images) < 4:
        raise DataError(f"fitting a model takes at least 4 scored training images; there are too few: {len(images)}")
    read, (fitted, held) = partial(load_prepared, prepare=model.prepare, progress=progress), held_out(images)
    more = None if unlabelled is None else read(unlabelled, task="reading unlabelled images")
    return TrainingImages(
        read(fitted, task="reading training images"), read(held, task="reading held-out images"), more
    )


def read_by_workers(batches: Iterable[T]) -> Iterator[T]:
    """Yield batches; what a worker process could not read is told as if it had been read here."""
    try:
        yield from batches
    except DataError as error:  # torch puts a traceback in front
        raise DataError(str(error).strip().rpartition(f"{DataError.__name__}: ")[2]) from error


def predict(
    model: Module, images: PreparedImages, *, batch_size: int = 32, progress: Progress = silent, task: str = "scoring"
) -> Tensor:
    """Return the scores (N,) of prepared images on the CPU, in eval mode without gradients; restores the mode."""
    device, workers = next(model.parameters()).device, worker_count(images)
    loader: Iterable[Any] = DataLoader(images, batch_size, num_workers=workers, pin_memory=device.type == "cuda")
    scores: list[Tensor] = []
    with frozen(model), torch.inference_mode():
        for batch, _, _ in read_by_workers(loader):
            scores.append(model(batch.to(device, non_blocking=True)).float().cpu())
            progress(task, sum(map(len, scores)), len(images))
    return torch.cat(scores)
