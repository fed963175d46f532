"""The range of a model's own predictions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.data.base import ImageSet
from iqa_armor.data.prepared import Prepare, PreparedImages, batches
from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import QualityModel, ScoreScale
from iqa_armor.models.training_scores import TrainingScores


def measure_scale(
    model: QualityModel,
    images: ImageSet,
    *,
    prepare: Prepare | None = None,
    batch_size: int = 8,
    on_batch: Callable[[int], None] = lambda done: None,  # noqa: ARG005
) -> ScoreScale:
    """Return the smallest and largest prediction on clean training images, where the model is; it is left as it was.

    `prepare` is the model's own by default; `on_batch` is called with the number of images done. Errors as below.

    Source: [RA] Meleshin et al., arXiv:2506.04951, Section 4: β0, β1 of eq. 9.
    """
    return scale_of(model, _predictions(model, images, prepare or model.prepare, batch_size, on_batch), images.names)


def measure_training_scores(model: QualityModel, images: ImageSet, on_batch: Callable[[int], None]) -> None:
    """Give a model, in place, what clean training images score where it is, and how they were rated."""
    scores = _predictions(model, images, model.prepare, 8, on_batch)
    model.scale = model.scale or scale_of(model, scores, images.names)
    model.training_scores = TrainingScores.of(scores, images.mos, rising=model.higher_is_better)


def _predictions(
    model: QualityModel, images: ImageSet, prepare: Prepare, batch_size: int, on_batch: Callable[[int], None]
) -> Tensor:
    parts: list[Tensor] = []
    with frozen(model), torch.no_grad():
        for pixels, _, indices in batches(PreparedImages(images, prepare), batch_size):
            parts.append(model(pixels.to(model.mean.device)).double().cpu())
            on_batch(int(indices[-1]) + 1)
    return torch.cat(parts)


def record_scale(model: QualityModel, scores: Tensor, names: Sequence[str], mos: Tensor | None) -> None:
    """Give a model, in place, what its training images scored, (N,), and how people rated them; as in `scale_of`."""
    model.scale = scale_of(model, scores, names)
    model.training_scores = TrainingScores.of(scores, mos, rising=model.higher_is_better)


def scale_of(model: QualityModel, scores: Tensor, names: Sequence[str]) -> ScoreScale:
    """Return the range of the scores (N,) of clean training images; a ModelLoadError if not finite, or all the same."""
    if not bool(scores.isfinite().all()):
        bad = names[int((~scores.isfinite()).nonzero()[0])]
        raise ModelLoadError(f"{model.name} gives a score that is not finite for training image {bad!r}")
    low, high = float(scores.min()), float(scores.max())
    if not low < high:
        raise ModelLoadError(
            f"{model.name} gives {low:.6g} for all {len(names)} training images, so its scores have no range"
        )
    return ScoreScale(low, high, model.higher_is_better)
