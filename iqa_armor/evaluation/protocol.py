"""Score, attack and compare models on datasets."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import iqa_armor
from iqa_armor.data.base import Dataset
from iqa_armor.errors import UsageError
from iqa_armor.evaluation.entries import build_entries
from iqa_armor.evaluation.journal import Journal
from iqa_armor.evaluation.run import Bookkeeping, OnProgress, reported_images, run_model
from iqa_armor.evaluation.scoring import ImageScores
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.shards import current_shard
from iqa_armor.models.base import QualityModel
from iqa_armor.results import DataEntry, Outcome

SCORED_WEIGHT, UNSCORED_WEIGHT = 2.0, 1.0  # (ours): [RA]'s 2 : 1 for KonIQ-10k and NIPS 2017


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and the per-image scores that it follows from.

    Args:
        outcome: Figures of every model, with a JSON round trip.
        scores: Per-image scores by model name and dataset spec.
    """

    outcome: Outcome
    scores: Mapping[str, Mapping[str, ImageScores]]


def evaluate(
    models: Sequence[QualityModel],
    datasets: Sequence[Dataset],
    *,
    baseline: str | int | None = None,
    settings: EvaluationSettings | None = None,
    output: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Score models clean and attacked on the reported split of each dataset, and compare them.

    Models are put in eval mode on the settings' device meanwhile and left as they were. Agreement with
    opinion comes from datasets with scores, robustness from all, both as weighted means. Opinion scores
    are higher for better images; scores of models for which lower is better are negated for SROCC and PLCC.
    Started by `accelerate launch`, every process works on its share of the images and returns the same.

    Args:
        models: Models with different names.
        datasets: Datasets with different specs.
        baseline: Name or position of the model the others are compared with, if any.
        settings: Attacks, budgets, device, seed, weights; the paper's sweep by default.
        output: Folder that keeps per-image results; an evaluation on the same data with the same settings goes on
            from them, and models can be added. Processes that share an evaluation must share it.
        on_progress: Called after each block of images.

    Raises:
        UsageError: If there is nothing to do, names repeat, the baseline is not among the models, or the
            weights do not fit.
        ModelLoadError: If a model has no score range and no dataset has a training split to measure it
            on, or if a score is not finite.
        DataError: If a dataset has nothing to report on, an image cannot be read, or the output folder holds
            results of something else.
        ArmorError: If an attack leaves its budget or the range of pixels.
    """
    settings = settings or EvaluationSettings()
    _require_different("model", [model.name for model in models])
    _require_different("dataset", [dataset.spec for dataset in datasets])
    reference = _baseline_name([model.name for model in models], baseline)
    data = _describe_data(datasets, settings)
    shard = current_shard(settings.device)
    identity = {
        "data": {entry.spec: entry.model_dump(exclude={"weight"}) for entry in data},
        "settings": settings.identity(),
        "versions": _versions(),
    }
    books = Bookkeeping(Journal(output, identity=identity, writer=shard.rank), shard, on_progress)
    lender = next((model for model in models if model.name == reference), None)
    runs = [
        run_model(model, datasets, settings, surrogate=None if model is lender else lender, books=books)
        for model in models
    ]
    weights = [entry.weight for entry in data]
    outcome = Outcome(
        models=build_entries(runs, settings, weights=weights, baseline=reference),
        baseline=reference,
        data=data,
        settings=settings.report(),
        versions=_versions(),
    )
    return Evaluation(outcome, {run.name: run.scores for run in runs})


def _require_different(kind: str, names: Sequence[str]) -> None:
    if not names:
        raise UsageError(f"name at least one {kind} to evaluate")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"every {kind} needs a name of its own; repeated: {', '.join(repeated)}")


def _baseline_name(names: Sequence[str], baseline: str | int | None) -> str | None:
    if isinstance(baseline, int) and 0 <= baseline < len(names):
        return names[baseline]
    if baseline is not None and baseline not in names:
        raise UsageError(f"the baseline {baseline!r} is not among the models: {', '.join(names)}")
    return None if baseline is None else str(baseline)


def _describe_data(datasets: Sequence[Dataset], settings: EvaluationSettings) -> tuple[DataEntry, ...]:
    chosen = [reported_images(dataset, settings) for dataset in datasets]
    has_scores = [images.mos is not None for images in chosen]
    weights = settings.weights or tuple(SCORED_WEIGHT if has else UNSCORED_WEIGHT for has in has_scores)
    if len(weights) != len(datasets) or min(weights) < 0 or sum(weights) <= 0:
        raise UsageError(f"{len(datasets)} datasets need as many weights, none negative, got {weights}")
    return tuple(
        DataEntry(
            spec=dataset.spec,
            split=dataset.reported()[0],
            images=len(images),
            has_scores=images.mos is not None,
            is_synthetic=dataset.is_synthetic,
            keeps_size=dataset.keeps_size,
            weight=weight,
            fingerprint=dataset.fingerprint,
        )
        for dataset, images, weight in zip(datasets, chosen, weights, strict=True)
    )


def _versions() -> dict[str, str]:
    return {
        "iqa_armor": iqa_armor.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
