"""From the rows of several models to the entries of the outcome: figures, combined and beside the baseline.

Figures are nested: numbers, None where they are not defined, or mappings of such; tensors of one shape are numbers too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from iqa_armor.evaluation.reductions import Nested, Reduction
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.metrics.robustness import draw_resamples, percentile_limits
from iqa_armor.results.figure_registry import declared
from iqa_armor.results.figures import Differences, Figures, ModelEntry, Ratios


@dataclass(frozen=True)
class Summary:
    """Figures of one model on all datasets, from the reductions of its rows on each and their weights."""

    reductions: Mapping[str, Reduction]
    weights: Sequence[float]
    settings: EvaluationSettings

    @cached_property
    def by_dataset(self) -> dict[str, Nested]:
        parts = self.reductions.items()
        return {spec: {**each_figure(float, part.figures()), "images": len(part.clean)} for spec, part in parts}

    @cached_property
    def combined(self) -> Nested:
        parts = list(self.by_dataset.values())
        shared = [{name: part[name] for name in Figures.model_fields if name in part} for part in parts]
        combined = weighted_mean(shared, self.weights)
        for figure in (each.name for each in declared("attacked") if each.combined == "largest"):
            for name, attack in combined["attacks"].items():
                values = [part["attacks"][name][figure] for part in parts]
                attack[figure] = {key: max(value[key] for value in values) for key in values[0]}
        return combined

    @cached_property
    def resampled(self) -> Nested:
        """Compared figures of every resample; each dataset is drawn by itself, alike for every model."""
        drawn = []
        for seed, part in enumerate(self.reductions.values(), start=self.settings.seed):
            draws = draw_resamples(len(part.clean), resamples=self.settings.resamples, seed=seed)
            drawn.append(each_figure(lambda *chunks: torch.cat(chunks), *map(part.figures, draws)))
        return weighted_mean(drawn, self.weights)


def compared(entry: ModelEntry, mine: Summary, reference: ModelEntry, theirs: Summary) -> ModelEntry:
    """Return the entry of a model and its figures beside those of the baseline: with differences and ratios."""
    if mine is theirs:
        return entry.model_copy(update={"srocc_drop": None if entry.srocc is None else 0.0})

    def limits(drawn: Tensor | None, base_drawn: Tensor | None, value: float | None, base: float | None) -> Any:
        if drawn is None or base_drawn is None or value is None or base is None:
            return {}
        low, high = percentile_limits(drawn - base_drawn, confidence=mine.settings.confidence)
        return {"value": value - base, "low": low, "high": high}

    figures = each_figure(limits, mine.resampled, theirs.resampled, mine.combined, theirs.combined)
    difference = Differences.model_validate(figures)
    drop = None if difference.srocc.value is None else -difference.srocc.value
    ratio = Ratios.model_validate(divide(entry.model_dump(include=set(Ratios.model_fields)), reference.model_dump()))
    beside = {"srocc_drop": drop, "ratio_to_baseline": ratio, "difference_to_baseline": difference}
    return entry.model_copy(update=beside)


def each_figure(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Return the function of every figure of `first` and its counterparts in others, None where they lack it."""
    if not isinstance(first, Mapping):
        return function(first, *others)
    nested = [other if isinstance(other, Mapping) else {} for other in others]
    return {key: each_figure(function, value, *(other.get(key) for other in nested)) for key, value in first.items()}


def divide(figures: Nested, baseline: Nested) -> dict[str, Any]:
    """Return every figure divided by its counterpart: None where a side is not defined or the baseline not positive."""

    def quotient(value: Any, reference: Any) -> Any:
        return None if value is None or reference is None or not reference > 0 else value / reference

    return each_figure(quotient, figures, baseline)  # type: ignore[no-any-return]


def weighted_mean(items: Sequence[Nested], weights: Sequence[float]) -> dict[str, Any]:
    """Return the weighted mean of every figure over the items that have it; None is left out, a nan makes it nan."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for item in items for key in item):
        defined = [(v, w) for item, w in zip(items, weights, strict=True) if (v := item.get(key)) is not None]
        values, kept = zip(*defined, strict=True) if defined else ((), ())
        if any(isinstance(value, Mapping) for value in values):
            found[key] = weighted_mean(values, kept)
        else:
            total = sum(kept)
            found[key] = sum(value * weight for value, weight in defined) / total if total > 0 else None
    return found
