"""Arithmetic on nested figures that respects what is not defined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Nested = Mapping[str, Any]  # numbers, None, or further mappings of the same kind


def divide(figures: Nested, baseline: Nested) -> dict[str, Any]:
    """Return every number of `figures` divided by its counterpart in `baseline`.

    A quotient is None where either side is not defined or the baseline is not positive.
    """
    return {key: _quotient(value, baseline.get(key)) for key, value in figures.items()}


def weighted_mean(items: Sequence[Nested], weights: Sequence[float]) -> dict[str, Any]:
    """Return the mean of every number over the items that have it, weighted.

    An absent number or None is left out (images without opinion scores have no SROCC); a nan is a
    figure that failed, so it makes the mean nan.

    Args:
        items: Nested figures; instead of numbers they may hold tensors of one shape.
        weights: One weight per item, not negative.
    """
    keys = dict.fromkeys(key for item in items for key in item)
    return {key: _mean([item.get(key) for item in items], weights) for key in keys}


def _quotient(value: Any, reference: Any) -> Any:
    if isinstance(value, Mapping):
        return divide(value, reference if isinstance(reference, Mapping) else {})
    if value is None or reference is None or not reference > 0:
        return None
    return value / reference


def _mean(values: Sequence[Any], weights: Sequence[float]) -> Any:
    if any(isinstance(value, Mapping) for value in values):
        pairs = [(v, w) for v, w in zip(values, weights, strict=True) if isinstance(v, Mapping)]
        return weighted_mean([v for v, _ in pairs], [w for _, w in pairs])
    defined = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None]
    total = sum(weight for _, weight in defined)
    return sum(value * weight for value, weight in defined) / total if total > 0 else None
