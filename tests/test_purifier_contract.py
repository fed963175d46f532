"""What every purifier and every smoother of the registries keeps, whatever it does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import WORDS, photographs, seeded
from torch import Tensor

from iqa_armor.defenses.base import (
    Approximated,
    BoundSmoother,
    Defended,
    Purifier,
    PurifierFile,
    Smoother,
    read_purifier,
)
from iqa_armor.defenses.defended import Purified, Smoothed
from iqa_armor.defenses.purifiers import PURIFIERS
from iqa_armor.defenses.smoothing import SMOOTHERS
from iqa_armor.errors import UsageError
from iqa_armor.models.base import QualityModel, ScoreScale

MakeModel = Callable[..., QualityModel]
SIZES = [(1, 1), (2, 1), (5, 3), (17, 33), (32, 48)]
SMOOTHED = [f"{word}:samples=12" for word in SMOOTHERS]
every_purifier = pytest.mark.parametrize("word", WORDS)
every_smoother = pytest.mark.parametrize("word", SMOOTHED)


@pytest.mark.parametrize("name", PURIFIERS)
def test_it_describes_itself(name: str) -> None:
    assert isinstance(PURIFIERS[name], Purifier | PurifierFile)
    assert PURIFIERS.entries[name].says.endswith(".")


@every_purifier
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_size_range_type_and_input_stay(word: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, *size, generator=seeded(3)).round(decimals=1).to(dtype)
    before = images.clone()
    purified = read_purifier(word)(images, seeded())
    assert (purified.shape, purified.dtype) == (images.shape, dtype)
    assert 0 <= purified.min() <= purified.max() <= 1
    assert torch.equal(images, before)
    assert purified.data_ptr() != images.data_ptr()


@every_purifier
def test_seed_decides_what_is_drawn(word: str) -> None:
    purifier, images = read_purifier(word), photographs()
    assert torch.equal(purifier(images, seeded(5)), purifier(images, seeded(5)))
    assert torch.equal(purifier(images, seeded(5)), purifier(images, seeded(6))) != purifier.is_random


@every_purifier
def test_images_do_not_influence_each_other(word: str) -> None:
    images, purifier = photographs(2), read_purifier(word)
    changed = torch.stack((images[0], torch.rand(images[1].shape, generator=seeded(9))))
    torch.testing.assert_close(purifier(images, seeded())[0], purifier(changed, seeded())[0])


@pytest.mark.parametrize("word", [word for word in WORDS if read_purifier(word).is_random])
def test_images_draw_for_themselves(word: str) -> None:
    twins = photographs(1).repeat(2, 1, 1, 1)
    first, second = read_purifier(word)(twins, seeded())
    assert not torch.equal(first, second)


@every_purifier
def test_gradient_is_that_of_what_is_computed_or_declared_missing(word: str) -> None:
    purifier, images = read_purifier(word), photographs(1, (9, 11)).double()
    weights = torch.randn(images.shape, generator=seeded(4)).double()

    def total(at: Tensor) -> Tensor:
        return (weights * purifier(at, seeded())).sum()

    leaf = images.clone().requires_grad_()
    if not purifier.is_differentiable:
        assert not total(leaf).requires_grad
        if isinstance(purifier, Approximated):
            assert (purifier.surrogate(images) - purifier(images, seeded())).abs().mean() < 0.05
        return
    (gradient,) = torch.autograd.grad(total(leaf), leaf)
    direction = torch.randn(images.shape, generator=seeded(7)).double()
    step = 1e-6
    measured = (total(images + step * direction) - total(images - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), measured, rtol=2e-3, atol=2e-3)
    assert gradient.abs().sum() > 0


def check_defended(model: Defended, images: Tensor) -> None:
    """A defended model is a model, begins anew where it is reseeded, and lets an attacker through."""
    first = model(images)
    assert first.shape == (len(images),)
    assert bool(first.isfinite().all())
    again = model(images)
    assert torch.equal(first, again) != model.is_random
    model.reseed(0)
    assert torch.equal(model(images), first)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.attacked_scores(leaf).sum(), leaf)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().sum()) > 0


@every_purifier
def test_a_model_behind_it_is_a_model(word: str, make_model: MakeModel) -> None:
    model = Purified(make_model(), {word: read_purifier(word)})
    assert model.is_random == read_purifier(word).is_random
    check_defended(model, photographs(2, (32, 40)))


@every_smoother
def test_a_model_behind_a_smoother_is_a_model(word: str, make_model: MakeModel) -> None:
    model = Smoothed(make_model(scale=ScoreScale(-1, 1)), SMOOTHERS.read(word), word=word)
    assert model.is_random
    check_defended(model, photographs(2, (32, 40)))


@every_smoother
def test_bounds_hold_the_score_and_settings_are_checked(word: str, make_model: MakeModel) -> None:
    smoother, images = SMOOTHERS.read(f"{word},confidence=0.5,radius=0.001"), photographs(3, (32, 40))
    assert isinstance(smoother, Smoother)
    bound = smoother.bind(make_model(scale=ScoreScale(-1, 1)))
    assert isinstance(bound, BoundSmoother)
    found, again = bound.certify(images, seeded()), bound.certify(images, seeded())
    assert found.scores.shape == (3,)
    assert bool((found.lower <= found.scores).all() and (found.scores <= found.upper).all())
    assert torch.equal(found.scores, again.scores)
    assert not found.scores.requires_grad
    few = SMOOTHERS.read(word).bind(make_model(scale=ScoreScale(-1, 1))).scores(images, seeded(), samples=2)
    assert few.shape == (3,)
    for bad in ("samples=0", "confidence=1", f"radius={math.inf}"):
        with pytest.raises(UsageError, match=rf"Smoothing needs {bad.split('=')[0]} in"):
            SMOOTHERS.read(f"{word},{bad}")
