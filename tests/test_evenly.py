"""A part of a dataset stands for the whole, also where images come in an order that repeats itself."""

from __future__ import annotations

from collections import Counter

import pytest

from iqa_armor.data.base import evenly


@pytest.mark.parametrize(("total", "count"), [(1, 1), (7, 3), (96, 96), (100, 99), (10_125, 64), (12, 0), (0, 5)])
def test_one_of_each_of_as_many_equal_parts_in_order(total: int, count: int) -> None:
    places = evenly(total, count)
    count = min(total, count)
    assert len(places) == count
    assert all(i * total // count <= place < (i + 1) * total // count for i, place in enumerate(places))


@pytest.mark.parametrize("more", [0, 1, 1000])
def test_where_no_more_are_asked_for_than_there_are_all_come(more: int) -> None:
    assert evenly(37, 37 + more) == list(range(37))


# KADID-10k has 81 × 25 × 5 images, TID2013 25 × 24 × 5, a generated scene twelve, PIPAL 200 × 116.
@pytest.mark.parametrize(
    ("total", "period"), [(10_125, 125), (10_125, 25), (3_000, 120), (3_000, 24), (720, 12), (360, 12), (23_200, 116)]
)
@pytest.mark.parametrize("share", [2, 3, 5, 6, 7.5, 12, 24, 25, 50, 116, 125])
def test_every_kind_of_distortion_gets_its_part(total: int, period: int, share: float) -> None:
    count = int(total / share)
    met = Counter(place % period for place in evenly(total, count))
    expected = count / period
    # As many kinds, and no more of one, as chance would give with large probability.
    assert len(met) >= 0.8 * period * (1 - (1 - 1 / period) ** count)
    assert max(met.values()) <= expected + 5 * expected**0.5 + 2


def test_nearly_all_versions_are_met_where_equal_distances_would_meet_five() -> None:
    assert len({place % 125 for place in evenly(10_125, 405)}) >= 120
