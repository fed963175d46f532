"""How far an attack moves scores: AbsGain, R-Score, their area over the budget, and what a purifier leaves of it.

Throughout, `clean` are scores of the original images, (N,) or (..., N) in the model's own units, `attacked` those of
the same images attacked, and `score_range` is the width of the model's own score range on clean training images.
Means are over the last dimension, (...). A ValueError refuses scores that do not pair up and an empty range.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

FLOOR = 1e-6
CHUNK_ELEMENTS = 200_000  # keeps the gathered scores of one statistic near a megabyte


def abs_gain(clean: Tensor, attacked: Tensor, score_range: float) -> Tensor:
    """Mean signed score gain of an attack, as a fraction of the score range; positive when the attack raises scores.

    Source: [RA] Meleshin et al., arXiv:2506.04951, eq. 8.
    """
    _check(clean, attacked, score_range)
    return torch.mean(attacked - clean, dim=-1) / score_range


def abs_gain_unsigned(clean: Tensor, attacked: Tensor, score_range: float) -> Tensor:
    """Mean absolute score change of an attack, as a fraction of the score range; not `abs_gain` under mixed signs.

    Source: the unsigned variant of [RA] eq. 8 used by benchmarks of the same laboratory.
    """
    _check(clean, attacked, score_range)
    return torch.mean((attacked - clean).abs(), dim=-1) / score_range


def abs_gain_std(clean: Tensor, attacked: Tensor) -> Tensor:
    """Mean signed score gain in standard deviations (N − 1) of the clean scores, which one outlier does not stretch.

    It is nan where the clean scores are constant or fewer than two. Source: (ours), beside [RA] eq. 8.
    """
    _check(clean, attacked)
    if clean.shape[-1] < 2:
        return clean.new_full(clean.shape[:-1], torch.nan)
    spread = clean.std(dim=-1)
    return torch.where(spread > 0, torch.mean(attacked - clean, dim=-1) / spread, torch.nan)


def r_score(clean: Tensor, attacked: Tensor, *, low: float, high: float) -> Tensor:
    """Mean logarithmic ratio of the largest possible to the achieved score change; higher is more robust.

    Per image log10( max{β1 − f(x̃), f(x) − β0} / |f(x̃) − f(x)| ) on scores normalised by the range, from `low` (β0) to
    `high` (β1): at most 6 while the scores stay in the range, negative where they left it.
    Source: [RA] eq. 9. Numerator and denominator are floored at 1e-6 of the range (ours).
    """
    _check(clean, attacked, high - low)
    before, after = (clean - low) / (high - low), (attacked - low) / (high - low)
    possible = torch.maximum(1 - after, before).clamp(min=FLOOR)
    achieved = (after - before).abs().clamp(min=FLOOR)
    return torch.log10(possible / achieved).mean(-1)


def gain_score(clean: Tensor, purified: Tensor) -> Tensor:
    """Change of each score that an attack keeps through a purifier, |s_clean − s_purified| / |s_clean|, shaped as they.

    `clean` are scores without the purifier, `purified` those attacked and purified, both in score ranges of the model.
    Source: [AP] Gushchin et al., arXiv:2404.06957; the floor of 0.05, lest one score of 0 decides, is (ours).
    """
    _check(clean, purified)
    return (clean - purified).abs() / clean.abs().clamp_min(0.05)


def auc(values: Tensor, epsilons: Sequence[float]) -> Tensor:
    """Area under a metric over the attack budget, divided by the budget's range: it reads as a mean of the metric.

    That is the trapezoid area ÷ (last − first budget), (...), of values (..., E) at E ascending budgets of one unit,
    else a ValueError; with one budget, the value there.
    Source: [RA] Section 4; the division by the range is (ours).
    """
    budgets = torch.tensor(epsilons, dtype=values.dtype, device=values.device)
    if values.shape[-1:] != budgets.shape or not len(budgets) or bool((budgets.diff() <= 0).any()):
        raise ValueError(f"need one value per ascending budget, got {tuple(values.shape)} at {list(epsilons)}")
    if len(budgets) == 1:
        return values[..., 0]
    return torch.trapezoid(values, budgets, dim=-1) / (budgets[-1] - budgets[0])


def _check(clean: Tensor, attacked: Tensor, score_range: float = 1.0) -> None:
    if clean.shape != attacked.shape:
        raise ValueError(f"scores must pair up, got {tuple(clean.shape)} and {tuple(attacked.shape)}")
    if score_range <= 0:
        raise ValueError(f"score_range must be positive, got {score_range}")


def draw_resamples(count: int, *, resamples: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield chunks of resampled indices (r, count) of `count` images, `resamples` rows in all; ValueError below 1.

    The same count, number and seed give the same rows, so statistics of different models computed with them are paired.
    """
    if count < 1 or resamples < 1:
        raise ValueError(f"need at least one image and one resample, got {count} and {resamples}")
    generator, rows = torch.Generator().manual_seed(seed), max(1, CHUNK_ELEMENTS // count)
    for start in range(0, resamples, rows):
        yield torch.randint(count, (min(rows, resamples - start), count), generator=generator)


def percentile_limits(samples: Tensor, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile limits of the resamples (R,) of a statistic; a ValueError for a confidence outside (0, 1).

    Undefined resamples (nan) are left out; where they are half of all, the limits are nan.
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, percentile interval.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if 2 * int(samples.isnan().sum()) >= len(samples):
        return torch.nan, torch.nan
    tail = (1 - confidence) / 2
    low, high = samples.double().nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
