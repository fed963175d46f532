"""Certify models by smoothing: bounds of the score of every image, several models and methods side by side."""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from iqa_armor.data.base import Dataset
from iqa_armor.defenses.base import Defended, Smoother
from iqa_armor.defenses.smoothing import SMOOTHERS
from iqa_armor.defenses.smoothing.input_smoothing import InputSmoothing
from iqa_armor.errors import UsageError, failing
from iqa_armor.evaluation.evaluation import data_entry
from iqa_armor.evaluation.run import prepare_for
from iqa_armor.evaluation.scale import measure_scale
from iqa_armor.machine import choose_device
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.card import versions
from iqa_armor.pipeline.certify_model import Subject, certify_model
from iqa_armor.pipeline.forecast import Forecast, forecast
from iqa_armor.pipeline.score import image_set, require_readable
from iqa_armor.pipeline.settings import CertifySettings
from iqa_armor.progress import Progress, automatic
from iqa_armor.results.figures import Scale
from iqa_armor.results.outcome import Certification, CertifiedModel

Source = Dataset | Sequence[Path | str]
OPTIONS = ("samples", "sigma", "radius", "confidence", "denoiser", "batch_size")


def opened(source: Source) -> Dataset:
    return source if isinstance(source, Dataset) else Dataset("files", {"test": image_set(source)})


def build_smoothers(settings: CertifySettings) -> dict[str, Smoother]:
    """Return the methods by their words; a UsageError if one is not allowed, or no method has a setting."""
    given = {key: value for key in OPTIONS if (value := getattr(settings, key)) is not None}
    found: dict[str, Any] = {word: SMOOTHERS.read(word) for word in settings.methods}
    for key in given:
        if not any(_takes(smoother, key) for smoother in found.values()):
            raise UsageError(f"none of the methods {', '.join(found)} has the setting {key!r}; leave it away")
    for word, smoother in found.items():
        named = {pair.partition("=")[0] for pair in word.partition(":")[2].split(",")}
        changes = {key: value for key, value in given.items() if key not in named and _takes(smoother, key)}
        with failing(f"method {word!r}", (ValueError,), error=UsageError):
            found[word] = replace(smoother, **changes)
    return found


def certify_images(
    models: Sequence[QualityModel],
    source: Source,
    settings: CertifySettings | None = None,
    *,
    baseline: int | None = None,
    device: torch.device | None = None,
    progress: Progress = automatic,
) -> Certification:
    """Certify models on the images that results of a dataset are reported on, or on image files and folders.

    Models are moved to the device and told apart by names; `baseline` is the position of the one that the others are
    compared with. A score range that is not known is measured on the dataset's training images, where it has some.

    Raises:
        UsageError: If there is no model, or a setting is not allowed.
        DataError: If there is no image, or one cannot be read.
        ModelLoadError: If a score is not finite, or a method needs a score range and there is none.
    """
    settings = settings or CertifySettings()
    smoothers = build_smoothers(settings)
    if not models:
        raise UsageError("name at least one model to certify")
    device, dataset = device or choose_device(), opened(source)
    images = dataset.reported()[1].limit(settings.limit)
    require_readable(images)
    entries = []
    for model in models:
        ready, scale = _with_scale(model.to(device).eval(), dataset, limit=settings.limit, progress=progress)
        prepare, training = prepare_for(model, dataset), dataset.splits.get("training")
        subject = Subject(ready, images, prepare, device, settings, training, scale, progress)
        entries.append(certify_model(subject, smoothers))
    base = None if baseline is None else entries[baseline]
    return Certification(
        models=tuple(entries if base is None else (_with_ratios(entry, base) for entry in entries)),
        baseline=base.name if base else None,
        data=data_entry(dataset, limit=settings.limit, weight=1) if dataset is source else None,
        seed=settings.seed,
        device=str(device),
        versions=versions(),
    )


def forecast_certificates(
    models: Sequence[QualityModel], source: Source, settings: CertifySettings, device: torch.device
) -> list[Forecast]:
    dataset = opened(source)
    images = dataset.reported()[1].limit(settings.limit)
    calls = 1 + sum(getattr(smoother, "samples", 1) for smoother in build_smoothers(settings).values())
    pairs = ((model, prepare_for(model, dataset)(images[0])) for model in models)
    return [forecast(model, image, device=device, images=len(images), calls=calls) for model, image in pairs]


def _takes(smoother: Any, key: str) -> bool:
    """Return whether an option changes this smoother."""
    # A denoiser replaces one, it does not make MS a DMS; sigma is noise on pixels, not a smoother's own kind of noise.
    if key in ("denoiser", "sigma") and not isinstance(smoother, InputSmoothing):
        return False
    return (key != "denoiser" or bool(smoother.denoiser)) and any(f.name == key and f.init for f in fields(smoother))


def _with_scale(
    model: QualityModel, dataset: Dataset, *, limit: int | None, progress: Progress
) -> tuple[QualityModel, Scale | None]:
    """Return the model with its score range, known or measured, and that range with where it comes from."""
    source, training = {}, dataset.splits.get("training")
    if model.scale is None and training is not None and len(training) and not isinstance(model, Defended):
        task, images = f"measuring the score range of {model.name}", training.limit(limit)
        scale = measure_scale(
            model, images, prepare=prepare_for(model, dataset), on_batch=lambda done: progress(task, done, len(images))
        )
        source = {"source": f"measured on {len(images)} training images of {dataset.spec}"}
        model = model.with_network(model.network, scale=scale).eval()
    return model, None if model.scale is None else Scale(**asdict(model.scale), **source)


def _with_ratios(entry: CertifiedModel, base: CertifiedModel) -> CertifiedModel:
    """Add the ratios of mean deltas, in score ranges, to those of the baseline, where neither abstains."""
    if entry.scale is None or base.scale is None:
        return entry
    methods = {}
    for word, figures in entry.methods.items():
        pairs = zip(figures.images, base.methods[word].images, strict=True)
        deltas = [(a.delta, b.delta) for a, b in pairs if a.delta is not None and b.delta is not None]
        own, other = (math.fsum(part) for part in zip(*deltas, strict=True)) if deltas else (0.0, 0.0)
        ratio = own / entry.scale.width / (other / base.scale.width) if other > 0 else None
        methods[word] = figures.model_copy(update={"ratio_to_baseline": ratio})
    return entry.model_copy(update={"methods": methods})
