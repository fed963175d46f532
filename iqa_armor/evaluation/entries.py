"""From the runs of several models to the entries of the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iqa_armor.evaluation.figures import Nested, bootstrap_figures, differences, measure
from iqa_armor.evaluation.run import ModelRun
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.results import Differences, Figures, ModelEntry, Ratios, Scale, Timing, divide, weighted_mean


@dataclass(frozen=True)
class _Compared:
    """A model's entry without its comparison, and what the comparison needs."""

    entry: ModelEntry
    figures: Nested
    samples: Nested


def build_entries(
    runs: Sequence[ModelRun],
    settings: EvaluationSettings,
    *,
    weights: Sequence[float],
    baseline: str | None = None,
) -> tuple[ModelEntry, ...]:
    """Return one entry per run, compared with the baseline's where there is one.

    Args:
        runs: Per-image scores of the models on the same datasets.
        settings: Resamples, confidence and seed of the intervals.
        weights: One weight per dataset.
        baseline: Name of one of the runs, or None.
    """
    measured = {run.name: _measure(run, settings, weights, needs_samples=baseline is not None) for run in runs}
    reference = None if baseline is None else measured[baseline]
    return tuple(_compare(item, reference, confidence=settings.confidence) for item in measured.values())


def _measure(
    run: ModelRun, settings: EvaluationSettings, weights: Sequence[float], *, needs_samples: bool
) -> _Compared:
    by_dataset = {spec: measure(scores, run.scale) for spec, scores in run.scores.items()}
    figures = _combine(list(by_dataset.values()), weights)
    samples: Nested = {}
    if needs_samples:
        samples = bootstrap_figures(
            list(run.scores.values()),
            run.scale,
            weights=weights,
            resamples=settings.resamples,
            seed=settings.seed,
        )
    seconds = next(iter(run.scores.values())).seconds_per_image
    scale = Scale(
        low=run.scale.low,
        high=run.scale.high,
        higher_is_better=run.scale.higher_is_better,
        source=run.scale_source,
    )
    own = {"name": run.name, "arch": run.arch, "parameters": run.parameters, "flops": run.flops}
    own |= {"defense": run.defense, "defends": run.defends, "threat": run.threat}
    parts = {
        "timing": Timing(seconds_per_image=seconds),
        "scale": scale,
        "datasets": by_dataset,
        "checks": run.checks,
    }
    return _Compared(ModelEntry.model_validate({**own, **parts, **figures}), figures, samples)


def _combine(by_dataset: Sequence[Nested], weights: Sequence[float]) -> Nested:
    shared = [{key: part[key] for key in Figures.model_fields if key in part} for part in by_dataset]
    combined = weighted_mean(shared, weights)
    for name, attack in combined["attacks"].items():
        distances = [part["attacks"][name]["max_linf"] for part in by_dataset]
        attack["max_linf"] = {key: max(distance[key] for distance in distances) for key in distances[0]}
    return combined


def _compare(item: _Compared, reference: _Compared | None, *, confidence: float) -> ModelEntry:
    if reference is None:
        return item.entry
    if item is reference:
        return item.entry.model_copy(update={"srocc_drop": None if item.entry.srocc is None else 0.0})
    difference: Differences = differences(
        item.figures,
        reference.figures,
        samples=item.samples,
        baseline_samples=reference.samples,
        confidence=confidence,
    )
    drop = None if difference.srocc.value is None else -difference.srocc.value
    ratio = divide(item.entry.model_dump(include=_RATIO_FIELDS), reference.entry.model_dump())
    return item.entry.model_copy(
        update={
            "srocc_drop": drop,
            "ratio_to_baseline": Ratios.model_validate(ratio),
            "difference_to_baseline": difference,
        }
    )


_RATIO_FIELDS = set(Ratios.model_fields)
