"""What one model on the bench costs, and beside the first."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iqa_armor.evaluation.cost import count_parameters
from iqa_armor.pipeline.timed_model import TimedModel


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


@dataclass
class Notes:
    """What was measured of one model so far."""

    model: TimedModel
    path: Path
    first_calls: list[float] = field(default_factory=list)
    flops: int = 0
    cache_bytes: int = 0
    calls: dict[int, list[float]] = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)
    peaks: dict[str, int | None] = field(default_factory=dict)

    def cost(self, first: Notes) -> Cost:
        """Return the figures of this model beside those of the first."""
        middle = {batch: statistics.median(times) for batch, times in self.calls.items()}
        return Cost(
            name=self.model.model.name,
            size=self.model.size,
            parameters=count_parameters(self.model.model),
            flops=self.flops,
            file_bytes=self.path.stat().st_size,
            first_call=statistics.median(self.first_calls),
            latency={str(batch): seconds for batch, seconds in middle.items()},
            throughput={str(batch): batch / seconds for batch, seconds in middle.items()},
            training_step=statistics.median(self.steps) if self.steps else None,
            cache_bytes=self.cache_bytes,
            cache_limit_bytes=self.model.cache_limit_bytes,
            peak_memory=self.peaks,
            ratio=self._ratios(first),
        )

    def _ratios(self, first: Notes) -> dict[str, Any]:
        return {
            "parameters": _over(count_parameters(self.model.model), count_parameters(first.model.model)),
            "flops": _over(self.flops, first.flops),
            "file_bytes": _over(self.path.stat().st_size, first.path.stat().st_size),
            "first_call": _paired(self.first_calls, first.first_calls),
            "latency": {str(batch): _paired(times, first.calls[batch]) for batch, times in self.calls.items()},
            "training_step": _paired(self.steps, first.steps) if self.steps else None,
            "peak_memory": {task: _over(peak, first.peaks[task]) for task, peak in self.peaks.items()},
        }


def _over(value: float | None, first: float | None) -> float | None:
    return None if value is None or not first else value / first


def _paired(times: list[float], first: list[float]) -> float:
    """Return the median of the rounds' ratios: what slows a whole round down cancels."""
    return statistics.median(mine / other for mine, other in zip(times, first, strict=True))
