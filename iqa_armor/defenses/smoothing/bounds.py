"""Confidence bounds of smoothed scores within an L2 radius, from scores of noisy copies."""

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def median_ranks(samples: int, shift: float, confidence: float) -> tuple[int, int]:
    """Return which sorted scores s₁ ≤ … ≤ sₙ bound the smoothed score under a shift of the noise.

    The ranks count from 1: the largest k with P(Bin(n, Φ(−shift)) ≤ k − 1) ≤ α/2, 0 where there is none; the smallest
    k with P(Bin(n, Φ(shift)) ≤ k − 1) ≥ 1 − α/2, n + 1 where there is none. The shift is in units of the noise's
    standard deviation, not negative; the confidence 1 − α, in (0, 1), is the probability that both bounds hold.

    Source: Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing", NeurIPS 2020,
    arXiv:2007.03730, Lemma 1 and Section 3; α is shared evenly between the bounds.
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


def median_bounds(ordered: Tensor, *, shift: float, confidence: float) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (...) of the median of f(x + δ + σz) for every ‖δ‖₂ ≤ shift · σ.

    Both hold together with probability `confidence` over the samples; −inf and inf where there are too few of them.
    They bound the true median, not an empirical one. Where medians fill an interval, the lower bound is one of its
    upper end, the upper bound one of its lower end.
    `ordered` are ascending scores of n noisy copies f(x + σz), (..., n), in any unit. Source: see `median_ranks`.
    """
    low, high = median_ranks(ordered.shape[-1], shift, confidence)
    missing = torch.full_like(ordered[..., 0], math.inf)
    return (ordered[..., low - 1], ordered[..., high - 1]) if low else (-missing, missing)


def mean_bounds(values: Tensor, *, shift: float, confidence: float) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (...) of the mean of g(x + δ + σz) for every ‖δ‖₂ ≤ shift · σ, float64.

    Hoeffding's limits of the mean at α/2 each are g∓ = mean ∓ √(ln(2/α) / 2n), limited to [0, 1]; the bounds are
    Φ(Φ⁻¹(g₋) − shift) and Φ(Φ⁻¹(g₊) + shift). They always exist; with few samples they are 0 and 1, which say nothing.
    Values g of n noisy copies, (..., n), lie in [0, 1]; the confidence is 1 − α.

    Source: Lemma 2 of Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers",
    NeurIPS 2019, arXiv:1906.04584 (Φ⁻¹ of a smoothed [0, 1] function is 1/σ-Lipschitz); Hoeffding, JASA 1963.
    """
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(f"mean bounds take values in [0, 1], got {float(values.min())} to {float(values.max())}")
    reach = math.sqrt(math.log(2 / (1 - confidence)) / (2 * values.shape[-1]))
    mean = values.double().mean(-1)
    lower = torch.special.ndtr(torch.special.ndtri((mean - reach).clamp(0, 1)) - shift)
    upper = torch.special.ndtr(torch.special.ndtri((mean + reach).clamp(0, 1)) + shift)
    return lower, upper
