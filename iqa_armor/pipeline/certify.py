"""Certify models by smoothing: bounds of the score of every image, several models and methods side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.images import FileImages
from iqa_armor.data.prepared import to_float
from iqa_armor.defenses.base import Defended, Smoother
from iqa_armor.defenses.smoothing import SMOOTHERS
from iqa_armor.defenses.smoothing.input_smoothing import InputSmoothing
from iqa_armor.errors import UsageError
from iqa_armor.evaluation.evaluation import data_entry
from iqa_armor.evaluation.scale import measure_scale
from iqa_armor.machine import choose_device
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.certify_model import Subject, calibrated, certify_model
from iqa_armor.pipeline.certify_settings import CertifySettings
from iqa_armor.pipeline.image_files import find_images, require_readable
from iqa_armor.pipeline.provenance import versions
from iqa_armor.progress import Progress, silent
from iqa_armor.results.certification import Certification, CertifiedModel
from iqa_armor.results.figures import Scale

OPTIONS = ("samples", "sigma", "radius", "confidence", "denoiser", "batch_size")


def build_smoothers(settings: CertifySettings) -> dict[str, Smoother]:
    """Return the methods by their words.

    Raises:
        UsageError: If a word or value is not allowed, or no method has a setting that is given.
    """
    given = {key: value for key in OPTIONS if (value := getattr(settings, key)) is not None}
    found = {word: SMOOTHERS.read(word) for word in settings.methods}
    for key in given:
        if not any(_takes(smoother, key) for smoother in found.values()):
            raise UsageError(f"none of the methods {', '.join(found)} has the setting {key!r}; leave it away")
    return {word: _changed(word, smoother, given) for word, smoother in found.items()}


def certify_files(
    models: Sequence[QualityModel],
    paths: Sequence[Path],
    settings: CertifySettings | None = None,
    *,
    baseline: int | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Certification:
    """Certify models on image files, or folders whose images are taken in the order of their names.

    Arguments and errors are those of `certify_images`.
    """
    files = tuple(dict.fromkeys(find_images(paths)))
    images = ImageSet(tuple(map(str, files)), FileImages(files))
    dataset = Dataset("files", {"test": images})
    found = certify_images(models, dataset, settings, baseline=baseline, device=device, progress=progress)
    return found.model_copy(update={"data": None})


def certify_images(
    models: Sequence[QualityModel],
    dataset: Dataset,
    settings: CertifySettings | None = None,
    *,
    baseline: int | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Certification:
    """Certify models on the images that results of a dataset are reported on.

    Args:
        models: Moved to the device; names tell them apart. A score range that is not known is measured on the
            dataset's training images, where it has some.
        dataset: Where images come from.
        settings: Methods and how to run them.
        baseline: Position of the model that the others are compared with.
        device: Where to compute; None lets `choose_device` decide.
        progress: Receiver of progress.

    Raises:
        UsageError: If there is no model, or a setting is not allowed.
        DataError: If there is no image, or one cannot be read.
        ModelLoadError: If a score is not finite, or a method needs a score range and there is none.
    """
    settings = settings or CertifySettings()
    smoothers = build_smoothers(settings)
    if not models:
        raise UsageError("name at least one model to certify")
    device = device or choose_device()
    images = dataset.reported()[1].limit(settings.limit)
    require_readable(images)
    entries = []
    for model in models:
        ready, scale = _with_scale(model.to(device).eval(), dataset, limit=settings.limit, progress=progress)
        prepare = to_float if dataset.keeps_size else model.prepare
        subject = Subject(ready, images, prepare, device, settings.seed, wants_bound=settings.global_bound)
        fitted = calibrated(smoothers, subject, dataset.splits.get("training"), progress=progress)
        entries.append(certify_model(subject, fitted, scale=scale, progress=progress))
    name = None if baseline is None else entries[baseline].name
    return Certification(
        models=_compared(entries, name),
        baseline=name,
        data=data_entry(dataset, limit=settings.limit, weight=1),
        seed=settings.seed,
        device=str(device),
        versions=versions(),
    )


def _takes(smoother: Any, key: str) -> bool:
    """Return whether an option changes this smoother.

    A denoiser replaces one, it does not make MS a DMS; sigma is noise on pixels, not a smoother's own kind of noise.
    """
    if key in ("denoiser", "sigma") and not isinstance(smoother, InputSmoothing):
        return False
    has = any(field.name == key and field.init for field in fields(smoother))
    return has and (key != "denoiser" or bool(smoother.denoiser))


def _changed(word: str, smoother: Any, given: Mapping[str, Any]) -> Smoother:
    named = {pair.partition("=")[0] for pair in word.partition(":")[2].split(",")}
    changes = {key: value for key, value in given.items() if key not in named and _takes(smoother, key)}
    try:
        changed: Smoother = replace(smoother, **changes)
    except ValueError as error:
        raise UsageError(f"method {word!r}: {error}") from error
    return changed


def _with_scale(
    model: QualityModel, dataset: Dataset, *, limit: int | None, progress: Progress
) -> tuple[QualityModel, Scale | None]:
    """Return the model with its score range, known or measured, and that range with where it comes from."""
    source = "stored with the model"
    training = dataset.splits.get("training")
    if model.scale is None and training is not None and len(training) and not isinstance(model, Defended):
        task, images = f"measuring the score range of {model.name}", training.limit(limit)
        scale = measure_scale(
            model,
            images,
            prepare=to_float if dataset.keeps_size else None,
            on_batch=lambda done: progress(task, done, len(images)),
        )
        source = f"measured on {len(images)} training images of {dataset.spec}"
        model = model.with_network(model.network, scale=scale).eval()
    known = model.scale
    if known is None:
        return model, None
    return model, Scale(low=known.low, high=known.high, higher_is_better=known.higher_is_better, source=source)


def _compared(entries: Sequence[CertifiedModel], baseline: str | None) -> tuple[CertifiedModel, ...]:
    """Return the entries with their ratios to the baseline."""
    base = next((entry for entry in entries if entry.name == baseline), None)
    if base is None:
        return tuple(entries)
    return tuple(
        entry.model_copy(
            update={
                "methods": {
                    word: figures.model_copy(update={"ratio_to_baseline": _ratio(entry, base, word)})
                    for word, figures in entry.methods.items()
                }
            }
        )
        for entry in entries
    )


def _ratio(entry: CertifiedModel, base: CertifiedModel, word: str) -> float | None:
    """Return the mean delta in score ranges over that of the baseline, on images for which neither abstains."""
    if entry.scale is None or base.scale is None:
        return None
    pairs = zip(entry.methods[word].images, base.methods[word].images, strict=True)
    deltas = [(own.delta, other.delta) for own, other in pairs if own.delta is not None and other.delta is not None]
    own, other = (math.fsum(part) for part in zip(*deltas, strict=True)) if deltas else (0.0, 0.0)
    shares = own / (entry.scale.high - entry.scale.low), other / (base.scale.high - base.scale.low)
    return shares[0] / shares[1] if shares[1] > 0 else None
