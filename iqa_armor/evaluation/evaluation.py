"""Score, attack and compare models on datasets."""

import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

import iqa_armor
from iqa_armor.attacks.base import frozen
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.base import Defended
from iqa_armor.errors import UsageError
from iqa_armor.evaluation.comparison import Summary, compared
from iqa_armor.evaluation.journal import Journal, current_shard, model_digest
from iqa_armor.evaluation.reductions import Reduction
from iqa_armor.evaluation.run import Run, on_device, prepare_for, undefended
from iqa_armor.evaluation.scale import count_flops
from iqa_armor.evaluation.scoring import score_datasets
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.strength import check_strength
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, automatic
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import DataEntry, Outcome
from iqa_armor.results.table import CLEAN, Table

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What an evaluation found: figures, the table that they are reductions of, and what pictures are taken with."""

    outcome: Outcome
    table: Table
    models: Sequence[QualityModel]
    run: Run

    def __repr__(self) -> str:  # a line per model: agreement with opinion, mean gains of attacks in score ranges
        lines = []
        for model in self.outcome.models:
            ranked = "" if model.srocc is None else f"SROCC {model.srocc:.3f}"
            gains = (f"{name} {found.abs_gain_auc:+.3f}" for name, found in model.attacks.items() if found.abs_gain)
            lines.append("  ".join(filter(None, (f"{model.name:24}", ranked, *gains))))
        return "\n".join(lines)


def evaluate(
    models: Sequence[QualityModel],
    datasets: Sequence[Dataset],
    *,
    attacks: Sequence[Any] | None = None,
    baseline: str | int | None = None,
    settings: EvaluationSettings | None = None,
    device: torch.device | None = None,
    output: Path | str | None = None,
    progress: Progress = automatic,
) -> Evaluation:
    """Score models clean and attacked on the reported split of each dataset, and compare them.

    Models are put in eval mode on the device meanwhile and left as they were. Agreement with opinion comes from
    datasets with scores, robustness from all, both as weighted means. Opinion scores are higher for better images;
    scores of models for which lower is better are negated for SROCC and PLCC. Started by `accelerate launch`, every
    process works on its share of the images and returns the same.

    Args:
        models: Different models; of several with one name, the second becomes "NAME (2)", and so on.
        datasets: Datasets with different specs.
        attacks: Words that name attacks, or attacks themselves, in the place of those of the settings.
        baseline: Name or position of the model the others are compared with, if any.
        settings: The paper's sweep by default.
        device: Where models are evaluated; the processor by default.
        output: Folder that keeps the rows of the table; an evaluation on the same data with the same settings goes on
            from them, and models can be added. Processes that share an evaluation must share it.
        progress: Told after each block of images.

    Raises:
        UsageError: If there is nothing to do, names repeat, the baseline is not among the models, or the
            weights do not fit.
        ModelLoadError: If a model has no score range and no dataset has a training split to measure it
            on, or if a score is not finite.
        DataError: If a dataset has nothing to report on, an image cannot be read, or the output folder holds
            results of something else.
        ArmorError: If an attack leaves its budget or the range of pixels.
    """
    settings, device = settings or EvaluationSettings(), device or torch.device("cpu")
    settings = settings if attacks is None else settings.changed(attacks=tuple(attacks))
    _tell_apart(models)
    names = [model.name for model in models]
    _require_different("model", names)
    _require_different("dataset", [dataset.spec for dataset in datasets])
    reference = _baseline_name(names, baseline)
    data, stated = _describe_data(datasets, settings), settings.report(device)
    versions = {"iqa_armor": iqa_armor.__version__, "torch": torch.__version__, "python": platform.python_version()}
    # What the rows of the table follow from: not how they are summed up.
    rest = stated.model_dump(mode="json", exclude={"device", "resamples", "confidence"})
    seen = {entry.spec: entry.model_dump(exclude={"weight"}) for entry in data}
    identity: dict[str, Any] = {
        "data": seen,
        "settings": {**rest, "fit_images": settings.fit_images},
        "versions": versions,
    }
    lender = None if reference is None else models[names.index(reference)]
    if lender is not None and settings.borrows:
        identity["lender"] = model_digest(lender)
    journal = Journal(None if output is None else Path(output), identity=identity, shard=current_shard(device))
    run = Run(datasets, settings, device, journal, progress, lender)
    measured = [_measure(run, model, [each.weight for each in data]) for model in models]
    base = next((each for each in measured if each[0].name == reference), None)
    entries = tuple(entry if base is None else compared(entry, summary, *base) for entry, summary in measured)
    outcome = Outcome(models=entries, baseline=reference, data=data, settings=stated, versions=versions)
    table = Table.joined([part.table for _, summary in measured for part in summary.reductions.values()])
    return Evaluation(outcome, table, models, run)


def _measure(run: Run, model: QualityModel, weights: Sequence[float]) -> tuple[ModelEntry, Summary]:
    settings, first, lender = run.settings, run.datasets[0], run.lender_for(model)
    if settings.borrows and run.lender not in (lender, model):
        logger.warning("attacks on the baseline are not tried on %s, whose images have another size", model.name)
    with on_device(model, run.device), on_device(lender or model, run.device), frozen(lender or model):
        scale, tables = run.scale(model), score_datasets(run, model)
        flops = count_flops(model, prepare_for(model, first)(run.images(first)[0]))
        checks = check_strength(run, model) if settings.checks else ()
    summary = Summary({spec: Reduction(table, scale, settings) for spec, table in tables.items()}, weights, settings)
    seconds = float(np.median(tables[first.spec].where(attack=CLEAN)["seconds"]))
    cost = {"parameters": sum(each.numel() for each in model.parameters()), "flops": flops}
    found = {"timing": {"seconds_per_image": seconds}, "scale": scale, "checks": checks, "datasets": summary.by_dataset}
    if isinstance(model, Defended):
        found |= {"defense": model.description, "defends": undefended(model).name, "threat": model.threat}
    entry = {"name": model.name, "arch": model.arch, **cost, **found, **summary.combined}
    return ModelEntry.model_validate(entry), summary


def _tell_apart(models: Sequence[QualityModel]) -> None:
    """Number, in place, different models of one name; what stands twice in the list, or behind one defense, stays."""
    before: set[str] = set()
    for model in {id(model): model for model in models if not isinstance(model, Defended)}.values():
        if (name := model.name) in before:
            model.name = next(new for n in count(2) if (new := f"{name} ({n})") not in before)
        before.add(model.name)


def _require_different(kind: str, names: Sequence[str]) -> None:
    if not names:
        raise UsageError(f"name at least one {kind} to evaluate")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"every {kind} needs a name of its own; repeated: {', '.join(repeated)}")


def _baseline_name(names: Sequence[str], baseline: str | int | None) -> str | None:
    if isinstance(baseline, int) and 0 <= baseline < len(names):
        return names[baseline]
    if baseline is not None and baseline not in names:
        raise UsageError(f"the baseline {baseline!r} is not among the models: {', '.join(names)}")
    return None if baseline is None else str(baseline)


def _describe_data(datasets: Sequence[Dataset], settings: EvaluationSettings) -> tuple[DataEntry, ...]:
    # (ours): [RA]'s 2 : 1 for KonIQ-10k and NIPS 2017
    weights = settings.weights or tuple(1.0 if dataset.reported()[1].mos is None else 2.0 for dataset in datasets)
    if len(weights) != len(datasets) or min(weights) < 0 or sum(weights) <= 0:
        raise UsageError(f"{len(datasets)} datasets need as many weights, none negative, got {weights}")
    return tuple(data_entry(each, limit=settings.limit, weight=w) for each, w in zip(datasets, weights, strict=True))


def data_entry(dataset: Dataset, *, limit: int | None, weight: float) -> DataEntry:
    split, images = dataset.reported()
    return DataEntry(
        spec=dataset.spec,
        split=split,
        images=len(images.limit(limit)),
        has_scores=images.mos is not None,
        is_synthetic=dataset.is_synthetic,
        keeps_size=dataset.keeps_size,
        weight=weight,
        fingerprint=dataset.fingerprint,
    )
