from weakref import WeakSet

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from white_subjects import MeanScore, draw_images, gains, tiny

from iqa_armor.attacks.apgd import APGD, Square
from iqa_armor.attacks.base import ScoreFn
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.scores import expectation
from iqa_armor.errors import ArmorError
from iqa_armor.gradients import straight_through


@pytest.fixture
def images() -> Tensor:
    return draw_images()


class Noisy:
    """A score behind Gaussian noise, as randomized defenses put it, that counts its calls."""

    def __init__(self, score: ScoreFn, sigma: float, seed: int = 0) -> None:
        self.score, self.sigma = score, sigma
        self.generator = Generator().manual_seed(seed)
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.score(images + self.sigma * torch.randn(images.shape, generator=self.generator))


def kinked() -> nn.Module:
    """Return a score whose slope differs from point to point, so that one noisy gradient says little."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MeanScore(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 1, 3)).eval()


def test_expectation_is_the_mean_of_scores_and_gradients(images: Tensor) -> None:
    model, samples = tiny("smooth"), 5
    pixels = images.clone().requires_grad_()
    mean = expectation(Noisy(model, 0.3), samples)(pixels)
    (gradient,) = torch.autograd.grad((mean * torch.tensor([1.0, 2.0, -3.0])).sum(), pixels)

    noisy = Noisy(model, 0.3)
    expected = torch.stack([noisy(pixels) for _ in range(samples)]).mean(0)
    (expected_gradient,) = torch.autograd.grad((expected * torch.tensor([1.0, 2.0, -3.0])).sum(), pixels)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    with torch.no_grad():
        torch.testing.assert_close(expectation(Noisy(model, 0.3), samples)(images), expected)


class Kept:
    """What the graph of one sample holds on to."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_expectation_holds_the_graph_of_one_sample_at_a_time(images: Tensor) -> None:
    alive: WeakSet[Kept] = WeakSet()
    most = [0]

    def keep(tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        alive.add(kept)
        return kept

    model = tiny("smooth")

    def score(batch: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
            scores: Tensor = model(batch)
        most[0] = max(most[0], len(alive))
        return scores

    expectation(score, 1)(images.clone().requires_grad_())
    by_one = most[0]
    expectation(score, 6)(images.clone().requires_grad_())
    assert most[0] == by_one > 0
    plain = sum(score(images.clone().requires_grad_()) for _ in range(6))
    assert most[0] > by_one
    assert isinstance(plain, Tensor)


def test_attack_through_expectation_works_better_on_a_random_model(images: Tensor) -> None:
    model = kinked()

    def gain(samples: int) -> float:
        attack = PGD(steps=4)
        attacked = attack(expectation(Noisy(model, 0.5), samples), images, Generator())
        return float(gains(attack, expectation(Noisy(model, 0.5, seed=99), 400), images, attacked=attacked).mean())

    once, often = gain(1), gain(32)
    assert often > 1.1 * once > 0


def test_expectation_calls_the_score_as_often_as_it_says(images: Tensor) -> None:
    noisy = Noisy(tiny("smooth"), 0.1)
    PGD(steps=3)(expectation(noisy, 7), images, Generator())
    assert noisy.calls == 21
    Square(queries=5)(expectation(noisy, 2), images, Generator())
    assert noisy.calls == 31


def test_expectation_of_a_score_without_gradient_is_refused_by_name(images: Tensor) -> None:
    with pytest.raises(ArmorError, match="no gradient by the pixels"):
        PGD()(expectation(lambda batch: batch.detach().mean((1, 2, 3)), 2), images, Generator())
    with pytest.raises(ValueError, match="samples >= 1, got 0"):
        expectation(tiny("smooth"), 0)


def quantize(images: Tensor) -> Tensor:
    return (15 * images).round() / 15


def through_numpy(images: Tensor) -> Tensor:
    return torch.from_numpy(np.round(15 * images.numpy()) / np.float32(15))


def test_straight_through_has_the_bits_of_one_map_and_the_slope_of_the_other(images: Tensor) -> None:
    pixels = images.clone().requires_grad_()
    mapped = straight_through(quantize, lambda batch: 3 * batch)(pixels)
    assert torch.equal(mapped, quantize(images))
    (slope,) = torch.autograd.grad(mapped.sum(), pixels)
    assert torch.equal(slope, torch.full_like(slope, 3))
    (slope,) = torch.autograd.grad(straight_through(quantize)(pixels).sum(), pixels)
    assert torch.equal(slope, torch.ones_like(slope))
    assert torch.equal(straight_through(quantize)(images), quantize(images))


def test_attack_gets_through_quantizing_where_plain_gradients_vanish(images: Tensor) -> None:
    model, attack = tiny("smooth"), APGD(epsilon=8 / 255, steps=20)

    def defended(batch: Tensor) -> Tensor:
        scores: Tensor = model(quantize(batch))
        return scores

    def passable(batch: Tensor) -> Tensor:
        scores: Tensor = model(straight_through(quantize)(batch))
        return scores

    assert torch.equal(attack(defended, images, Generator()), images)
    attacked = attack(passable, images, Generator())
    moved = gains(attack, defended, images, attacked=attacked)
    assert (moved > 0.5 * gains(attack, model, images)).all()


def test_attack_gets_through_a_map_that_leaves_torch(images: Tensor) -> None:
    model, attack = tiny("smooth"), PGD(epsilon=8 / 255)
    with pytest.raises(ArmorError, match="no gradient"):
        attack(lambda batch: model(through_numpy(batch.detach())), images, Generator())
    attacked = attack(lambda batch: model(straight_through(through_numpy)(batch)), images, Generator())
    assert (gains(attack, lambda batch: model(through_numpy(batch)), images, attacked=attacked) > 0).all()


def test_surrogate_of_another_shape_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"shape of what it stands for, \(3, 3, 8, 8\), got \(3, 3, 16, 16\)"):
        straight_through(lambda batch: batch[..., ::2, ::2])(images.requires_grad_())
