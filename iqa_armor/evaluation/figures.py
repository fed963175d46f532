"""From per-image scores to figures, for the images themselves and for resamples of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iqa_armor.evaluation.scoring import ImageScores
from iqa_armor.metrics import (
    abs_gain,
    abs_gain_std,
    abs_gain_unsigned,
    auc,
    draw_resamples,
    gain_score,
    order_codes,
    percentile_interval,
    plcc,
    plcc_logistic,
    r_score,
    srocc,
)
from iqa_armor.models.base import ScoreScale
from iqa_armor.results import AttackDifferences, Differences, weighted_mean

Nested = dict[str, Any]  # tensors (R,) or floats by the names of results.Figures


def measure(scores: ImageScores, scale: ScoreScale) -> Nested:
    """Return the figures of one dataset as floats, by the names of `results.DatasetFigures`.

    Args:
        scores: Per-image scores in model units.
        scale: Range and orientation of the model's scores.
    """
    figures: Nested = _floats(resampled_figures(scores, scale, torch.arange(len(scores.clean))[None]))
    for name, attack in figures["attacks"].items():
        distances, decibels = scores.linf[name], scores.psnr[name]
        attack["max_linf"] = {key: float(d.max()) * 255 for key, d in distances.items()}
        attack["psnr"] = {key: float(d.mean()) for key, d in decibels.items()}
        attack |= _purified_figures(scores, name, scale)
    if scores.bare is not None and scores.clean_quality is not None:
        figures["clean_quality"] = float(scores.clean_quality.mean())
        figures["clean_gain_score"] = _gain_score(scores.bare, scores.clean, scale)
    if scores.mos is not None:
        figures["plcc_logistic"] = float(plcc_logistic(_sign(scale) * scores.clean, scores.mos))
    figures["images"] = len(scores.clean)
    figures["clean_mean"] = float(scores.clean.mean())
    figures["clean_std"] = float(scores.clean.std()) if len(scores.clean) > 1 else torch.nan
    return figures


def resampled_figures(scores: ImageScores, scale: ScoreScale, rows: Tensor) -> Nested:
    """Return the figures of every resample, (R,) each, by the names of `results.Figures`.

    Args:
        scores: Per-image scores in model units.
        scale: Range and orientation of the model's scores.
        rows: Image indices of the resamples, (R, N).
    """
    figures = _agreement(scores.clean, scores.mos, scale, rows)
    attacks = {name: _attack_figures(scores, budgets, scale, rows) for name, budgets in scores.attacked.items()}
    worst = scores.worst()
    return {
        **figures,
        "attacks": attacks,
        **({"worst_case": _attack_figures(scores, worst, scale, rows)} if worst else {}),
    }


def _attack_figures(
    scores: ImageScores, budgets: Mapping[str, Tensor], scale: ScoreScale, rows: Tensor
) -> dict[str, Any]:
    columns: dict[str, dict[str, Tensor]] = {}
    for key, attacked in budgets.items():
        for figure, value in _under_attack(scores, attacked, scale, rows).items():
            columns.setdefault(figure, {})[key] = value
    return columns | _areas(columns)


def bootstrap_figures(
    scores: Sequence[ImageScores], scale: ScoreScale, *, weights: Sequence[float], resamples: int, seed: int
) -> Nested:
    """Return the combined figures of every resample, (resamples,) each.

    Each dataset is resampled by itself; equal seeds give equal draws, so models are paired.

    Args:
        scores: Per-image scores of one model, by dataset.
        scale: Range and orientation of the model's scores.
        weights: One weight per dataset.
        resamples: Number of resamples.
        seed: Seed of the draws.
    """
    drawn = []
    for position, part in enumerate(scores):
        draws = draw_resamples(len(part.clean), resamples=resamples, seed=seed + position)
        drawn.append(_concatenate([resampled_figures(part, scale, rows) for rows in draws]))
    return weighted_mean(drawn, weights)


def differences(
    figures: Nested, baseline: Nested, *, samples: Nested, baseline_samples: Nested, confidence: float
) -> Differences:
    """Return model minus baseline with confidence limits.

    Args:
        figures: Combined figures of the model, floats.
        baseline: The same of the baseline.
        samples: Combined figures of the model's resamples, (R,) each.
        baseline_samples: The same of the baseline.
        confidence: Coverage asked for.
    """

    def limits(keys: Sequence[str]) -> dict[str, Any]:
        parts = (_at(nested, keys) for nested in (figures, baseline, samples, baseline_samples))
        value, reference, drawn, reference_drawn = parts
        if isinstance(value, Mapping):
            return {key: limits([*keys, key]) for key in value}
        if value is None or reference is None:
            return {}
        interval = percentile_interval(value - reference, drawn - reference_drawn, confidence=confidence)
        return {"value": interval.value, "low": interval.low, "high": interval.high}

    def under(*keys: str) -> dict[str, Any]:
        return {name: limits([*keys, name]) for name in AttackDifferences.model_fields}

    found = {
        "srocc": limits(["srocc"]),
        "plcc": limits(["plcc"]),
        "attacks": {attack: under("attacks", attack) for attack in figures["attacks"]},
    }
    if "worst_case" in figures:
        found["worst_case"] = under("worst_case")
    return Differences.model_validate(found)


def _purified_figures(scores: ImageScores, attack: str, scale: ScoreScale) -> Nested:
    """Return the figures of [AP] by budget, or nothing without a purifier."""
    if scores.bare is None:
        return {}
    return {
        "quality": {key: float(value.mean()) for key, value in scores.quality[attack].items()},
        "gain_score": {key: _gain_score(scores.bare, value, scale) for key, value in scores.attacked[attack].items()},
    }


def _gain_score(bare: Tensor, purified: Tensor, scale: ScoreScale) -> float:
    return float(gain_score((bare - scale.low) / scale.width, (purified - scale.low) / scale.width).mean())


def _under_attack(scores: ImageScores, attacked: Tensor, scale: ScoreScale, rows: Tensor) -> dict[str, Tensor]:
    before, after = scores.clean[rows], attacked[rows]
    return {
        "abs_gain": abs_gain(before, after, scale.width),
        "abs_gain_unsigned": abs_gain_unsigned(before, after, scale.width),
        "abs_gain_std": abs_gain_std(before, after),
        "r_score": r_score(before, after, low=scale.low, high=scale.high),
        **_agreement(attacked, scores.mos, scale, rows),
    }


def _agreement(scores: Tensor, mos: Tensor | None, scale: ScoreScale, rows: Tensor) -> dict[str, Tensor]:
    if mos is None:
        return {}
    sign = _sign(scale)
    ranked = srocc(order_codes(scores)[rows], order_codes(mos)[rows])
    return {"srocc": sign * ranked, "plcc": sign * plcc(scores[rows], mos[rows])}


def _areas(columns: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    names = ("abs_gain", "abs_gain_unsigned", "abs_gain_std", "r_score")
    keys = list(columns["abs_gain"])
    epsilons = [float(key) for key in keys] if len(keys) > 1 else [0.0]  # one budget may have a name, not a size
    return {f"{name}_auc": auc(torch.stack(list(columns[name].values()), -1), epsilons) for name in names}


def _sign(scale: ScoreScale) -> int:
    return 1 if scale.higher_is_better else -1


def _at(nested: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        nested = nested.get(key) if isinstance(nested, Mapping) else None
    return nested


def _floats(nested: Any) -> Any:
    if isinstance(nested, Mapping):
        return {key: _floats(value) for key, value in nested.items()}
    return float(nested)


def _concatenate(chunks: Sequence[Nested]) -> Nested:
    return {
        key: _concatenate([chunk[key] for chunk in chunks])
        if isinstance(value, Mapping)
        else torch.cat([chunk[key] for chunk in chunks])
        for key, value in chunks[0].items()
    }
