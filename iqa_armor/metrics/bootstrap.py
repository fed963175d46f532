"""Paired bootstrap over images: how sure a difference between two models is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Statistic = Callable[..., Tensor]
RESAMPLES = 1000
CHUNK_ELEMENTS = 200_000  # keeps the gathered scores of one statistic near a megabyte


@dataclass(frozen=True)
class Interval:
    """A value with its confidence limits; nan limits where too few resamples define it."""

    value: float
    low: float
    high: float


def draw_resamples(count: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Tensor]:
    """Yield chunks of resampled image indices (r, count), `resamples` rows in all.

    The same count, number and seed give the same rows, so statistics of different models computed
    with them are paired.

    Args:
        count: Number of images to draw from, and to draw.
        resamples: Number of resamples.
        seed: Seed of the draw.

    Raises:
        ValueError: If count or resamples is not positive.
    """
    if count < 1 or resamples < 1:
        raise ValueError(f"need at least one image and one resample, got {count} and {resamples}")
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, CHUNK_ELEMENTS // count)
    for start in range(0, resamples, rows):
        yield torch.randint(count, (min(rows, resamples - start), count), generator=generator)


def bootstrap_statistic(
    statistic: Statistic, columns: Sequence[Tensor], *, resamples: int = RESAMPLES, seed: int = 0
) -> Tensor:
    """Return the statistic of every resample of the images, (resamples,).

    Args:
        statistic: Function of the columns, each (r, N), giving (r,): any metric over the last dimension.
        columns: Per-image values, (N,) each, on the CPU.
        resamples: Number of resamples.
        seed: Seed of the draw.

    Raises:
        ValueError: If the columns differ in length or are empty.
    """
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise ValueError(f"columns must describe the same images, got lengths {sorted(lengths)}")
    draws = draw_resamples(lengths.pop(), resamples=resamples, seed=seed)
    return torch.cat([statistic(*(column[rows] for column in columns)) for rows in draws])


def paired_difference(
    statistic: Statistic,
    model: Sequence[Tensor],
    baseline: Sequence[Tensor],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Difference of a statistic between two models on the same images, with confidence limits.

    Args:
        statistic: Function of a model's columns, (..., N) each, giving (...): e.g. `srocc`.
        model: Columns of the model, (N,) each: what `statistic` takes.
        baseline: Columns of the baseline for the same images in the same order.
        resamples: Number of resamples.
        seed: Seed of the draw.
        confidence: Coverage asked for, in (0, 1).

    Returns:
        Statistic of the model minus that of the baseline.

    Raises:
        ValueError: If the columns differ in length, or the confidence is not in (0, 1).

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, percentile interval.
    """
    draws = [
        bootstrap_statistic(statistic, columns, resamples=resamples, seed=seed)
        for columns in _same_images(model, baseline)
    ]
    value = float(statistic(*model) - statistic(*baseline))
    return percentile_interval(value, draws[0] - draws[1], confidence=confidence)


def percentile_interval(value: float, samples: Tensor, *, confidence: float = 0.95) -> Interval:
    """Return the value with the percentile limits of its resamples (R,).

    Resamples in which the statistic is undefined (nan) are left out; where they are more than half,
    the limits are nan.

    Raises:
        ValueError: If the confidence is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    defined = samples[~samples.isnan()].double()
    if 2 * len(defined) <= len(samples):
        return Interval(value, torch.nan, torch.nan)
    tail = (1 - confidence) / 2
    limits = torch.quantile(defined, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value, limits[0], limits[1])


def _same_images(model: Sequence[Tensor], baseline: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    if {len(column) for column in model} != {len(column) for column in baseline}:
        raise ValueError("both models must have scored the same images")
    return model, baseline
