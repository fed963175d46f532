"""Confidence bounds of smoothed scores within an L2 radius, from scores of noisy copies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iqa_armor.defenses.smoothing.ranks import median_indices


def check_smoothing(*, samples: int, sigma: float, radius: float, confidence: float) -> None:
    """Refuse settings that no bound is defined for.

    Raises:
        ValueError: If samples < 1, sigma is not positive, radius is negative, or confidence is not inside (0, 1).
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius must be finite and not negative, got {radius}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be inside (0, 1), got {confidence}")


def order_indices(samples: int, *, sigma: float, radius: float, confidence: float) -> tuple[int | None, int | None]:
    """Return which order statistics bound the median: (k of the lower bound, k of the upper one), 1 to n or None.

    With α = 1 − confidence, the lower bound is s_k for the largest k with P(Bin(n, Φ(−r/σ)) ≤ k − 1) ≤ α/2, the
    upper one s_k for the smallest k with P(Bin(n, Φ(r/σ)) ≤ k − 1) ≥ 1 − α/2; None where there is no such k in 1…n.

    Args:
        samples: Number n of noisy copies.
        sigma: Standard deviation σ of the noise, pixels being in [0, 1].
        radius: L2 radius r, in the same units.
        confidence: Probability with which both bounds hold.

    Raises:
        ValueError: If a setting is not allowed.

    Source: Chiang et al., "Detection as Regression: Certified Object Detection with Median Smoothing", NeurIPS 2020,
    arXiv:2007.03730, Section 3 and its appendix; α is shared evenly between the bounds.
    """
    check_smoothing(samples=samples, sigma=sigma, radius=radius, confidence=confidence)
    low, high = median_indices(samples, radius / sigma, confidence)
    return (low, high) if low else (None, None)


def median_bounds(ordered: Tensor, *, sigma: float, radius: float, confidence: float) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (...) of the median of f(x + δ + σz) for every ‖δ‖₂ ≤ radius.

    Both hold together with probability `confidence` over the samples; −inf and inf where there are too few of them.
    They bound the true median, not an empirical one. Where medians fill an interval, the lower bound is one of its
    upper end, the upper bound one of its lower end.

    Args:
        ordered: Ascending scores of n noisy copies f(x + σz), (..., n), any units.
        sigma: Standard deviation of the noise, pixels being in [0, 1].
        radius: L2 radius, in the same units.
        confidence: Of both bounds together.

    Raises:
        ValueError: If a setting is not allowed.

    Source: as in `order_indices`.
    """
    low, high = order_indices(ordered.shape[-1], sigma=sigma, radius=radius, confidence=confidence)
    missing = torch.full_like(ordered[..., 0], math.inf)
    lower = -missing if low is None else ordered[..., low - 1]
    upper = missing if high is None else ordered[..., high - 1]
    return lower, upper


def mean_bounds(values: Tensor, *, sigma: float, radius: float, confidence: float) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (...) of the mean of g(x + δ + σz) for every ‖δ‖₂ ≤ radius, float64.

    Hoeffding's limits of the mean at α/2 each are g∓ = mean ∓ √(ln(2/α) / 2n), limited to [0, 1]; the bounds are
    Φ(Φ⁻¹(g₋) − r/σ) and Φ(Φ⁻¹(g₊) + r/σ). They always exist; with few samples they are 0 and 1, which say nothing.

    Args:
        values: Values g of n noisy copies, (..., n), in [0, 1].
        sigma: Standard deviation of the noise, pixels being in [0, 1].
        radius: L2 radius, in the same units.
        confidence: Of both bounds together, 1 − α.

    Raises:
        ValueError: If a setting is not allowed or a value is outside [0, 1].

    Source: Lemma 2 of Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers",
    NeurIPS 2019, arXiv:1906.04584 (Φ⁻¹ of a smoothed [0, 1] function is 1/σ-Lipschitz); Hoeffding, JASA 1963.
    """
    samples = values.shape[-1]
    check_smoothing(samples=samples, sigma=sigma, radius=radius, confidence=confidence)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(f"mean bounds take values in [0, 1], got {float(values.min())} to {float(values.max())}")
    reach = math.sqrt(math.log(2 / (1 - confidence)) / (2 * samples))
    mean = values.double().mean(-1)
    shift = radius / sigma
    lower = torch.special.ndtr(torch.special.ndtri((mean - reach).clamp(0, 1)) - shift)
    upper = torch.special.ndtr(torch.special.ndtri((mean + reach).clamp(0, 1)) + shift)
    return lower, upper
