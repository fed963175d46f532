"""Fit a full-reference model to opinion scores."""

from collections.abc import Sequence

import torch
from torch import Tensor

from iqa_armor.data.base import ImageSet
from iqa_armor.errors import ArmorError, DataError
from iqa_armor.models.reference import ReferenceModel, StageDistance
from iqa_armor.progress import Progress, silent
from iqa_armor.recipe import Training
from iqa_armor.training import LOSSES
from iqa_armor.training.descent import decayed_optimizer, descend, mirrored, run_epoch, warm_cosine


def fit_reference(
    model: StageDistance, images: ImageSet, settings: Training, *, progress: Progress = silent
) -> tuple[float, ...]:
    """Fit a full-reference network in place, on its device, and leave it in eval mode after the last epoch.

    All weights are fitted, those of the trunk too; the statistics of its norm layers stay. Nothing is held out. Scores
    become opinion scores in the unit of `images.mos`; returned is the mean loss of every epoch. Images without
    references or scores, or fewer than two, are a DataError, mixed precision and a loss that is not finite an
    ArmorError.
    """
    if images.mos is None or images.references is None or len(images) < 2:
        wanted = "at least two scored images with references, such as those of kadid10k:DIR or live:DIR"
        raise DataError(f"a full-reference network is fitted to {wanted}")
    if settings.precision != "no":
        raise ArmorError(f"a full-reference network is fitted in float32, not in {settings.precision}; leave it away")
    mos = images.mos.float()
    model.offset.fill_(mos.mean())
    model.unit.fill_(mos.std().clamp_min(1e-6))
    model.train().requires_grad_(True)
    generator, loss_of = torch.Generator().manual_seed(settings.seed), LOSSES.read(settings.loss)
    orders = [torch.randperm(len(images), generator=generator) for _ in range(settings.epochs)]
    # One image has no correlation.
    epochs = [[part for part in torch.split(each, settings.batch_size) if len(part) > 1] for each in orders]
    optimizer = decayed_optimizer(model, settings)
    schedule = warm_cosine(optimizer, sum(map(len, epochs)))

    def step(batch: Tensor) -> Tensor:
        pairs = tuple(part.to(model.mean.device) for part in read_pairs(model, images, batch.tolist()))
        if settings.flip:
            pairs = mirrored(*pairs, generator=generator)
        targets = (mos[batch].to(model.offset) - model.offset) / model.unit
        return descend(loss_of((model(*pairs) - model.offset) / model.unit, targets), optimizer, schedule)

    losses: list[float] = []
    for number, batches in enumerate(epochs, start=1):
        losses.append(run_epoch(batches, step, number=number))
        progress("epochs", number, settings.epochs, f"epoch {number}: loss {losses[-1]:.4f}")
    model.eval()
    return tuple(losses)


@torch.no_grad()
def predict_reference(model: ReferenceModel, images: ImageSet, *, batch_size: int = 16) -> Tensor:
    """Return the scores (N,) of images beside their references, on the CPU, in the mode that the model is in."""
    scores = [torch.zeros(0)]
    for start in range(0, len(images), batch_size):
        pairs = read_pairs(model, images, range(start, min(start + batch_size, len(images))))
        scores.append(model(*(part.to(model.mean.device) for part in pairs)).cpu())
    return torch.cat(scores)


def read_pairs(model: ReferenceModel, images: ImageSet, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return (references, images) at some indices as the model sees them, (n, 3, H, W) each; a DataError without."""
    if images.references is None:
        raise DataError("these images have no references; use data that has, such as kadid10k:DIR or live:DIR")
    references = [model.prepare(images.references(images.positions[index])) for index in indices]
    return torch.stack(references), torch.stack([model.prepare(images[index]) for index in indices])
