"""Arithmetic on nested figures (numbers, None, or mappings of the same kind) that respects what is not defined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Nested = Mapping[str, Any]


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
    """Return the mean of every figure over the items that have it, weighted; tensors of one shape are figures too.

    An absent number or None is left out (images without opinion scores have no SROCC); a nan is a
    figure that failed, so it makes the mean nan. Weights are not negative, one per item.
    """
    keys = dict.fromkeys(key for item in items for key in item)
    return {key: _mean([item.get(key) for item in items], weights) for key in keys}


def _mean(values: Sequence[Any], weights: Sequence[float]) -> Any:
    defined = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None]
    if any(isinstance(value, Mapping) for value, _ in defined):
        return weighted_mean([value for value, _ in defined], [weight for _, weight in defined])
    total = sum(weight for _, weight in defined)
    return sum(value * weight for value, weight in defined) / total if total > 0 else None
