"""One model on all datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.transforms import to_float
from iqa_armor.errors import ModelLoadError
from iqa_armor.evaluation.cost import count_flops, count_parameters
from iqa_armor.evaluation.scale import measure_scale
from iqa_armor.evaluation.scoring import ImageScores, score_images
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.models.base import QualityModel, ScoreScale

STORED = "stored with the model"


@dataclass(frozen=True)
class Progress:
    """How many images of a dataset one model has been evaluated on."""

    model: str
    dataset: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class ModelRun:
    """What a model is and what it scored, by dataset spec."""

    name: str
    arch: str
    parameters: int
    flops: int
    scale: ScoreScale
    scale_source: str
    scores: dict[str, ImageScores]


def run_model(
    model: QualityModel,
    datasets: Sequence[Dataset],
    settings: EvaluationSettings,
    *,
    on_progress: OnProgress | None = None,
) -> ModelRun:
    """Score one model clean and attacked on the reported split of every dataset; it is left as it was.

    Args:
        model: Moved to the settings' device meanwhile.
        datasets: At least one.
        settings: Attacks, budgets, device, seed.
        on_progress: Called after each batch.

    Raises:
        ModelLoadError: If the model has no score range and none can be measured, or a score is not finite.
        ArmorError: If an attack leaves its budget or the range of pixels.
    """
    with on_device(model, settings.device):
        scale, source = resolve_scale(model, datasets, settings, on_progress=on_progress)
        sample = prepare_for(model, datasets[0])(reported_images(datasets[0], settings)[0])
        return ModelRun(
            name=model.name,
            arch=model.arch,
            parameters=count_parameters(model),
            flops=count_flops(model, sample),
            scale=scale,
            scale_source=source,
            scores={d.spec: _score_dataset(model, d, settings, on_progress) for d in datasets},
        )


def resolve_scale(
    model: QualityModel,
    datasets: Sequence[Dataset],
    settings: EvaluationSettings,
    *,
    on_progress: OnProgress | None = None,
) -> tuple[ScoreScale, str]:
    """Return the model's score range and where it comes from: the model, else a training split.

    Raises:
        ModelLoadError: If there is neither.
    """
    if model.scale is not None:
        return model.scale, STORED
    for dataset in datasets:
        training = dataset.splits.get("training")
        if training is not None and len(training):
            images = training.limit(settings.limit)
            prepare = prepare_for(model, dataset)
            report = _reporter(on_progress, model.name, f"{dataset.spec} (score range)", total=len(images))
            scale = measure_scale(model, images, prepare=prepare, batch_size=settings.batch_size, on_batch=report)
            return scale, f"measured on {len(images)} training images of {dataset.spec}"
    raise ModelLoadError(
        f"the range of {model.name}'s scores is not known and no dataset has training images to measure it "
        "on; give it with --score-range LOW,HIGH or name a dataset with a training split"
    )


def reported_images(dataset: Dataset, settings: EvaluationSettings) -> ImageSet:
    """Return the images of the reported split that the settings' limit leaves."""
    return dataset.reported()[1].limit(settings.limit)


def prepare_for(model: QualityModel, dataset: Dataset) -> Callable[[Tensor], Tensor]:
    """Return what turns a uint8 image into the network's: nothing but scaling where sizes are kept."""
    return to_float if dataset.keeps_size else model.prepare


def _score_dataset(
    model: QualityModel, dataset: Dataset, settings: EvaluationSettings, on_progress: OnProgress | None
) -> ImageScores:
    images = reported_images(dataset, settings)
    report = _reporter(on_progress, model.name, dataset.spec, total=len(images))
    prepare = prepare_for(model, dataset)
    return score_images(model, images, prepare=prepare, settings=settings, on_batch=report)


def _reporter(on_progress: OnProgress | None, model: str, dataset: str, *, total: int) -> Callable[[int], None] | None:
    if on_progress is None:
        return None
    return lambda done: on_progress(Progress(model, dataset, done, total))


@contextmanager
def on_device(model: QualityModel, device: str) -> Iterator[None]:
    """Move a model to a device while the block runs, and back afterwards."""
    home = model.mean.device
    try:
        model.to(device)
        yield
    finally:
        model.to(home)
