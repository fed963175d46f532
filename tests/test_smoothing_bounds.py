"""Bounds of smoothed scores: which samples they are, and how often they hold."""

from __future__ import annotations

import math
from math import comb
from typing import Any

import pytest
import torch
from benchmarks.smoothing_coverage import METHODS, simulate, simulate_network
from scipy.stats import norm

from iqa_armor.defenses.smoothing.input_smoothing import (
    MeanSmoothing,
    MedianSmoothing,
    mean_bounds,
    median_bounds,
    median_ranks,
)

FIELD = {"shift": 0.05 / 0.12, "confidence": 0.999}


def below(successes: int, n: int, p: float) -> float:
    """Return P(Bin(n, p) ≤ successes), summed term by term."""
    return math.fsum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(successes + 1))


@pytest.mark.parametrize("n", [8, 25, 100, 400])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("confidence", [0.9, 0.999])
def test_ranks_are_those_of_the_definition(n: int, ratio: float, confidence: float) -> None:
    tail = (1 - confidence) / 2
    low, high = float(norm.cdf(-ratio)), float(norm.cdf(ratio))
    lows = [k for k in range(1, n + 1) if below(k - 1, n, low) <= tail]
    highs = [k for k in range(1, n + 1) if below(k - 1, n, high) >= 1 - tail]
    assert median_ranks(n, ratio, confidence) == (max(lows, default=0), min(highs, default=n + 1))


def test_field_settings_have_these_indices() -> None:
    low, high = median_ranks(1000, **FIELD)
    p = float(norm.cdf(-0.05 / 0.12))
    assert high == 1001 - low
    assert below(low - 1, 1000, p) <= 0.0005 < below(low, 1000, p)
    assert low == 290


def test_bounds_are_the_samples_at_these_indices() -> None:
    ordered = torch.arange(1.0, 1001.0).expand(2, 1000)
    lower, upper = median_bounds(ordered, **FIELD)
    assert lower.tolist() == [290.0, 290.0]
    assert upper.tolist() == [711.0, 711.0]


def test_radius_zero_bounds_the_median_itself() -> None:
    low, high = median_ranks(1000, 0.0, 0.999)
    assert 0 < low < 500 < high
    values = torch.full((3, 500), 0.4)
    lower, upper = mean_bounds(values, shift=0.0, confidence=0.99)
    reach = math.sqrt(math.log(200) / 1000)
    torch.testing.assert_close(upper - lower, torch.full((3,), 2 * reach).double())


def test_median_abstains_with_few_samples_and_mean_says_nothing() -> None:
    lower, upper = median_bounds(torch.arange(5.0), **FIELD)
    assert (float(lower), float(upper)) == (-math.inf, math.inf)
    assert median_ranks(5, **FIELD) == (0, 6)
    lower, upper = mean_bounds(torch.full((3,), 0.5), **FIELD)
    assert (float(lower), float(upper)) == (0.0, 1.0)


def test_a_large_radius_abstains() -> None:
    assert median_ranks(1000, 10.0, 0.999) == (0, 1001)


def test_bounds_part_with_the_radius_and_close_with_samples() -> None:
    lows = [median_ranks(1000, radius / 0.12, 0.999)[0] for radius in (0, 0.02, 0.05, 0.1, 0.2)]
    assert lows == sorted(lows, reverse=True)
    assert len(set(lows)) == 5
    shares = [median_ranks(n, **FIELD)[0] / n for n in (50, 200, 1000, 5000, 20000)]
    assert shares == sorted(shares)
    assert shares[-1] < norm.cdf(-0.05 / 0.12)
    values = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    widths = [
        float(u - low) for low, u in (mean_bounds(values, **{**FIELD, "shift": r / 0.12}) for r in (0, 0.05, 0.1))
    ]
    assert widths == sorted(widths)


def test_mean_bounds_by_hand() -> None:
    values = torch.tensor([0.0, 1.0]).repeat(5000)
    lower, upper = mean_bounds(values, **FIELD)
    reach = math.sqrt(math.log(2000) / 20000)
    assert float(lower) == pytest.approx(norm.cdf(norm.ppf(0.5 - reach) - 0.05 / 0.12))
    assert float(upper) == pytest.approx(norm.cdf(norm.ppf(0.5 + reach) + 0.05 / 0.12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, r"samples in \[1, inf\), got 0"),
        ({"sigma": 0.0}, r"sigma in \(0, inf\), got"),
        ({"sigma": math.nan}, r"sigma in \(0, inf\), got"),
        ({"radius": -0.1}, r"radius in \[0, inf\), got"),
        ({"radius": math.inf}, r"radius in \[0, inf\), got"),
        ({"confidence": 1.0}, r"confidence in \(0, 1\), got 1.0"),
        ({"batch_size": 0}, r"batch_size in \[1, inf\), got 0"),
    ],
)
@pytest.mark.parametrize("kind", [MedianSmoothing, MeanSmoothing])
def test_settings_without_meaning_are_refused(kind: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**change)


def test_mean_bounds_refuse_values_outside_the_unit_interval() -> None:
    with pytest.raises(ValueError, match=r"values in \[0, 1\], got 0.0 to 1.5"):
        mean_bounds(torch.tensor([0.0, 1.5]), **FIELD)


@pytest.mark.parametrize("method", METHODS)
def test_true_score_stays_inside_as_often_as_promised(
    method: str, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = simulate(method, cases=2000, samples=100, confidence=0.95)
    record_property("violations_by_the_true_score", found.true / found.cases)
    record_property("violations_by_the_estimate", found.empirical / found.cases)
    with capsys.disabled():
        true, estimate = found.true / found.cases, found.empirical / found.cases
        print(f" {method}: true {true:.2%}, estimate {estimate:.2%} outside")  # noqa: T201
    assert found.cases >= 2000
    assert found.p_value > 1e-3
    # The certificate does not speak of the estimate, whose noise comes on top.
    assert found.empirical > found.true
    if method.endswith("ms"):  # order statistics are exact: a wrong index shows on the other side as well
        assert found.true > 0.004 * found.cases


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_true_score_of_a_network_under_attack_stays_inside(method: str) -> None:
    found = simulate_network(method, cases=25, samples=1000, confidence=0.999)
    assert found.true == 0
    assert 0 < found.width < 1
