import pytest
import torch
from torch import Tensor

from iqa_armor.metrics import bootstrap_statistic, paired_difference, percentile_interval
from iqa_armor.metrics.bootstrap import draw_resamples
from iqa_armor.metrics.correlation import plcc, srocc


def mean(values: Tensor) -> Tensor:
    return values.mean(-1)


def draw(seed: int, count: int = 40) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_interval_of_identical_models_is_zero() -> None:
    scores, mos = draw(1), draw(2)
    interval = paired_difference(srocc, [scores, mos], [scores, mos], resamples=100)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    columns = [draw(1), draw(2)], [draw(3), draw(2)]
    first, again, other = (paired_difference(plcc, *columns, resamples=200, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.low != other.low
    assert first.value == other.value


def test_clear_difference_of_srocc_leaves_out_zero() -> None:
    mos = draw(0, 100)
    good, bad = mos + 0.2 * draw(1, 100), mos + 3 * draw(2, 100)
    interval = paired_difference(srocc, [good, mos], [bad, mos], resamples=300)
    assert 0 < interval.low < interval.value < interval.high


def test_pairing_cancels_what_both_models_share() -> None:
    shared, shift = 100 * draw(0), 0.1 * draw(1)
    interval = paired_difference(mean, [shared + shift], [shared], resamples=300)
    assert interval.high - interval.low < 0.2  # unpaired it would be about 90


def test_coverage_is_near_what_was_asked() -> None:
    hits = 0
    for seed in range(200):
        interval = paired_difference(mean, [draw(2 * seed) + 0.3], [draw(2 * seed + 1)], resamples=200)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_rows_do_not_depend_on_the_chunks_they_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.cat(list(draw_resamples(30, resamples=50, seed=3)))
    monkeypatch.setattr("iqa_armor.metrics.bootstrap.CHUNK_ELEMENTS", 100)
    chunks = list(draw_resamples(30, resamples=50, seed=3))
    assert len(chunks) > 1
    assert torch.equal(torch.cat(chunks), whole)


def test_bootstrap_gives_one_value_per_resample() -> None:
    values = draw(5)
    samples = bootstrap_statistic(mean, [values], resamples=500)
    assert samples.shape == (500,)
    assert samples.std().item() == pytest.approx(values.std().item() / 40**0.5, rel=0.15)


def test_undefined_resamples_are_left_out_until_they_are_most() -> None:
    samples = torch.tensor([1.0, 2.0, 3.0, torch.nan])
    assert percentile_interval(2.0, samples).low == pytest.approx(1.05)
    assert percentile_interval(2.0, torch.full((4,), torch.nan)).low != percentile_interval(2.0, samples).low


def test_bootstrap_refuses_different_images() -> None:
    with pytest.raises(ValueError, match="same images"):
        bootstrap_statistic(srocc, [draw(1, 5), draw(2, 6)])
    with pytest.raises(ValueError, match="same images"):
        paired_difference(mean, [draw(1, 5)], [draw(2, 6)])
    with pytest.raises(ValueError, match="confidence"):
        percentile_interval(0.0, draw(1), confidence=1.0)
    with pytest.raises(ValueError, match="at least one"):
        list(draw_resamples(0))
