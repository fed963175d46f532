"""What one model on the bench costs, and beside the first."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What one model costs; times are medians over the rounds, in seconds, memory is in bytes.

    Args:
        name: What the model is called.
        size: (height, width) of its images.
        parameters: Number of parameter values.
        flops: Operations of scoring one image, as `count_flops` counts them.
        file_bytes: Size of its file.
        first_call: Time of a call on the smallest batch that finds every cache empty.
        latency: Time of a call, by batch.
        throughput: Images per second, by batch.
        training_step: Time of forward, backward and AdamW update at the training batch, or None if left out.
        cache_bytes: What its orthogonal layers keep for the next call.
        cache_limit_bytes: The most they would keep.
        peak_memory: Of the first call at the largest batch ("inference") and of a training step ("training").
        ratio: Each figure over the first model's, times as the median of the rounds' ratios; null where that is 0.
    """

    name: str
    size: tuple[int, int]
    parameters: int
    flops: int
    file_bytes: int
    first_call: float
    latency: dict[str, float]
    throughput: dict[str, float]
    training_step: float | None
    cache_bytes: int
    cache_limit_bytes: int
    peak_memory: dict[str, int | None]
    ratio: dict[str, Any] = field(default_factory=dict)


def middle(figure: Any) -> Any:
    """Return a figure with the median in the place of its times; None where there are none."""
    if isinstance(figure, dict):
        return {key: middle(value) for key, value in figure.items()}
    if isinstance(figure, list):
        return statistics.median(figure) if figure else None
    return figure


def over(figure: Any, first: Any) -> Any:
    """Return a figure over the same of the first model; times round by round, as what slows a whole round cancels."""
    if isinstance(figure, dict):
        return {key: over(value, first[key]) for key, value in figure.items()}
    if isinstance(figure, list):
        pairs = zip(figure, first, strict=True)
        return statistics.median(mine / other for mine, other in pairs) if figure else None
    return None if figure is None or not first else figure / first
