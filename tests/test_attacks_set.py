"""SMA: targets against all orders there are, and a ranking that is turned round."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from white_subjects import BOTH

from iqa_armor.attacks.base import Direction, Fitted
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.sma import SMA, ranking_targets
from iqa_armor.metrics.correlation import srocc


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def least_product(low: np.ndarray, high: np.ndarray) -> int:
    """Return the smallest Σ rank of score · rank of target over all orders that the bounds allow; scores ascend."""
    allowed = [
        order
        for order in map(list, permutations(range(len(low))))
        if (np.maximum.accumulate(low[order]) <= high[order]).all()
    ]
    return min(int(np.argsort(order) @ np.arange(len(low))) for order in allowed)


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_targets_turn_the_ranking_as_far_as_any_order_within_the_bounds(count: int, direction: Direction) -> None:
    draws = np.random.default_rng(count)
    for _ in range(25):
        scores = np.sort(draws.normal(size=count))
        low, high = (scores + sign * draws.uniform(0, 1, count) for sign in (-1, 1))
        mixed = draws.permutation(count)
        targets = ranking_targets(scores[mixed], low[mixed], high[mixed], direction)[np.argsort(mixed)]
        assert (targets >= low - 1e-9).all()
        assert (targets <= high + 1e-9).all()
        assert ranks(targets) @ np.arange(count) == least_product(low, high)


def test_targets_by_hand() -> None:
    # All reach [-1, 1]: the order is turned, and half of the largest gap, 1, lies between neighbours.
    scores, one = np.array([0.1, 0.0, 0.2]), np.ones(3)
    np.testing.assert_allclose(ranking_targets(scores, -one, one), [0.5, 1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(ranking_targets(scores, -one, one, -1), [-0.5, 0.0, -1.0], atol=1e-9)
    # The last cannot come down to the others.
    np.testing.assert_allclose(ranking_targets(scores, np.array([-1, -1, 2]), np.array([1, 1, 3]))[2], 3, atol=1e-9)


def mean_score(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def levels(count: int, between: float) -> Tensor:
    """Return gray images that grow brighter by so many 1/255."""
    gray = 0.4 + between / 255 * torch.arange(count)
    return gray.view(-1, 1, 1, 1).expand(-1, 3, 12, 12).contiguous()


def test_a_linear_score_is_driven_to_its_targets() -> None:
    # 1/255 apart and moved by up to 4/255, eight images lie in one another's reach but for a few pairs.
    images = levels(8, 1.0)
    clean = mean_score(images)
    attacked = mean_score(SMA()(mean_score, images))
    apart = (attacked - ranking_targets_of(clean)).abs().max()
    assert float(apart) < 0.01 / 255
    pushed = torch.where(clean < clean.median(), 4 / 255, -4 / 255)
    assert float(srocc(attacked, clean)) == -1 < float(srocc(clean + pushed, clean))


def ranking_targets_of(clean: Tensor) -> Tensor:
    low, high = ((clean + change).double().numpy() for change in (-4 / 255, 4 / 255))
    return torch.from_numpy(ranking_targets(clean.double().numpy(), low, high)).float()


def test_what_it_learned_of_a_set_turns_single_images_of_another() -> None:
    known, images = levels(8, 1.0), levels(15, 0.5) + 0.1 / 255
    attack = SMA()
    assert isinstance(attack, Fitted)
    learned = attack.fit(mean_score, lambda: known.split(3), Generator())
    assert not isinstance(learned, Fitted)
    alone = torch.cat([learned(mean_score, image, Generator()) for image in images.split(1)])
    assert (alone - images).abs().max() <= 4 / 255 + 1e-7
    assert float(srocc(mean_score(alone), mean_score(images))) < -0.95
    raised = PGD()(mean_score, images)
    assert float(srocc(mean_score(raised), mean_score(images))) == 1
