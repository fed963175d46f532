import math

import pytest
import torch
from torch import Tensor

from iqa_armor.metrics.correlation import srocc
from iqa_armor.metrics.robustness import draw_resamples, percentile_limits


def draw(seed: int, count: int = 40) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(count: int = 40, *, resamples: int = 300, seed: int = 0) -> Tensor:
    return torch.cat(list(draw_resamples(count, resamples=resamples, seed=seed)))


def test_same_seed_gives_the_same_rows_and_another_seed_another() -> None:
    assert torch.equal(rows(), rows())
    assert not torch.equal(rows(), rows(seed=1))
    assert rows().shape == (300, 40)
    assert rows().unique().tolist() == list(range(40))


def test_clear_difference_of_srocc_leaves_out_zero() -> None:
    mos, drawn = draw(0, 100), rows(100)
    good, bad = mos + 0.2 * draw(1, 100), mos + 3 * draw(2, 100)
    low, high = percentile_limits(srocc(good[drawn], mos[drawn]) - srocc(bad[drawn], mos[drawn]))
    assert 0 < low < float(srocc(good, mos) - srocc(bad, mos)) < high


def test_pairing_cancels_what_both_models_share() -> None:
    shared, shift = 100 * draw(0), 0.1 * draw(1)
    low, high = percentile_limits((shared + shift)[rows()].mean(-1) - shared[rows()].mean(-1))
    assert high - low < 0.2  # unpaired it would be about 90


def test_coverage_is_near_what_was_asked() -> None:
    hits = 0
    for seed in range(200):
        low, high = percentile_limits((draw(seed) + 0.3)[rows(resamples=200, seed=seed)].mean(-1))
        hits += low <= 0.3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_rows_do_not_depend_on_the_chunks_they_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows(30, resamples=50, seed=3)
    monkeypatch.setattr("iqa_armor.metrics.robustness.CHUNK_ELEMENTS", 100)
    chunks = list(draw_resamples(30, resamples=50, seed=3))
    assert len(chunks) > 1
    assert torch.equal(torch.cat(chunks), whole)


def test_undefined_resamples_are_left_out_until_they_are_most() -> None:
    assert percentile_limits(torch.tensor([1.0, 2.0, 3.0, torch.nan]))[0] == pytest.approx(1.05)
    assert all(map(math.isnan, percentile_limits(torch.tensor([1.0, torch.nan, torch.nan]))))


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        rows(0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile_limits(draw(0), confidence=1.0)
