"""Which of n sorted noisy scores bound the median of all, shifted."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=256)
def median_indices(samples: int, shift: float, confidence: float) -> tuple[int, int]:
    """Return which sorted scores s₁ ≤ … ≤ sₙ bound the smoothed score under a shift of the noise.

    Args:
        samples: Number n of noisy scores.
        shift: Length of the shift in units of the noise's standard deviation, not negative.
        confidence: 1 − α, probability that both bounds hold, in (0, 1).

    Returns:
        (k_low, k_high), counted from 1: the largest k with P(Bin(n, Φ(−shift)) ≤ k − 1) ≤ α/2, 0 where there is none;
        the smallest k with P(Bin(n, Φ(shift)) ≤ k − 1) ≥ 1 − α/2, n + 1 where there is none.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing", NeurIPS 2020,
    arXiv:2007.03730, Lemma 1 and Section 3.
    """
    import numpy as np
    from scipy.special import ndtr
    from scipy.stats import binom

    if samples < 1 or not 0 <= shift < math.inf or not 0 < confidence < 1:
        raise ValueError(
            f"samples >= 1, shift >= 0 and 0 < confidence < 1 are needed, got {samples}, {shift}, {confidence}"
        )
    below = binom.cdf(np.arange(samples), samples, ndtr(-shift))
    # Φ(shift) = 1 − Φ(−shift), so the upper bound's rank mirrors the lower one's.
    low = int((below <= (1 - confidence) / 2).sum())
    return low, samples + 1 - low
