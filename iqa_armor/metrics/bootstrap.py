"""Paired bootstrap over images: how sure a difference between two models is."""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = 200_000  # keeps the gathered scores of one statistic near a megabyte


def draw_resamples(count: int, *, resamples: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield chunks of resampled indices (r, count) of `count` images, `resamples` rows in all.

    The same count, number and seed give the same rows, so statistics of different models computed
    with them are paired. A ValueError refuses a count or number that is not positive.
    """
    if count < 1 or resamples < 1:
        raise ValueError(f"need at least one image and one resample, got {count} and {resamples}")
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, CHUNK_ELEMENTS // count)
    for start in range(0, resamples, rows):
        yield torch.randint(count, (min(rows, resamples - start), count), generator=generator)


def percentile_limits(samples: Tensor, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile limits of the resamples (R,) of a statistic.

    Resamples in which the statistic is undefined (nan) are left out; where they are half of all, the limits are nan.
    A ValueError refuses a confidence outside (0, 1).

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, percentile interval.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    defined = samples[~samples.isnan()].double()
    if 2 * len(defined) <= len(samples):
        return torch.nan, torch.nan
    tail = (1 - confidence) / 2
    low, high = torch.quantile(defined, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
