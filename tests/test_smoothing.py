"""Smoothers of a model: noise, determinism, the smoothed model and its attackers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from benchmarks.smoothing_coverage import Blur
from torch import Generator, Tensor, nn

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.pgd import PGD
from iqa_armor.defenses.base import Defended
from iqa_armor.defenses.defended import ATTACKED_COPIES, Purified, Smoothed
from iqa_armor.defenses.smoothing import SMOOTHERS
from iqa_armor.defenses.smoothing.input_smoothing import MeanSmoothing, MedianSmoothing
from iqa_armor.errors import ModelLoadError, UsageError
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale

MakeModel = Callable[..., QualityModel]
RANGE = ScoreScale(-1, 1)
KINDS = [MedianSmoothing(samples=40, sigma=0.1), MeanSmoothing(samples=40, sigma=0.1)]


class Pixels(nn.Module):
    """The mean pixel, far from any range, or not a number."""

    def __init__(self, *, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * images.mean((1, 2, 3))


class Coarse:
    """A purifier without a useful gradient."""

    is_differentiable = False
    is_random = False

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        return (images * 4).round() / 4


def pixel_model(gain: float = 1.0, scale: ScoreScale | None = RANGE) -> QualityModel:
    plain = Preprocessing(size=None, mean=(0, 0, 0), std=(1, 1, 1))
    return QualityModel(Pixels(gain=gain), plain, scale=scale, name="pixels").eval()


def drawn(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noisy_scores(images: Tensor, samples: int, *, batch_size: int = 16, sigma: float = 0.1) -> Tensor:
    bound = MedianSmoothing(sigma=sigma, batch_size=batch_size).bind(pixel_model())
    return bound.noisy_scores(images, drawn(), samples=samples)


def images_of(count: int = 3) -> Tensor:
    return torch.rand((count, 3, 32, 40), generator=drawn(7))


@pytest.mark.parametrize("smoothing", KINDS)
def test_a_batch_is_as_one_by_one(smoothing: MedianSmoothing, make_model: MakeModel) -> None:
    bound = smoothing.bind(make_model(scale=RANGE))
    images, generator = images_of(), drawn()
    together, one_by_one = bound.certify(images, drawn()), [bound.certify(i[None], generator) for i in images]
    for name in ("scores", "lower", "upper"):
        alone = torch.cat([getattr(part, name) for part in one_by_one])
        torch.testing.assert_close(getattr(together, name), alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_noise_does_not_depend_on_the_batch_of_copies(batch_size: int) -> None:
    odd = torch.full((2, 3, 5, 3), 0.5)  # 45 values: a vectorized draw of several copies would differ
    scores, reference = noisy_scores(odd, 40, batch_size=batch_size), noisy_scores(odd, 40, batch_size=40)
    torch.testing.assert_close(scores, reference, atol=1e-6, rtol=0)


def test_fewer_copies_are_the_first_ones() -> None:
    image = images_of(1)
    torch.testing.assert_close(noisy_scores(image, 5), noisy_scores(image, 30)[:, :5], atol=1e-6, rtol=0)


def test_copies_are_scored_in_bounded_batches() -> None:
    seen: list[int] = []
    model = pixel_model()
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    MedianSmoothing(samples=25, batch_size=10).bind(model).certify(images_of(2), drawn())
    assert seen == [10, 10, 5] * 2


def test_noise_is_seen_as_it_is_unless_clamped() -> None:
    seen: list[Tensor] = []
    model = pixel_model()
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    image = torch.ones(1, 3, 16, 16)
    for clamp in (False, True):
        MedianSmoothing(samples=2, clamp=clamp).bind(model).certify(image, drawn())
    assert float(seen[0].max()) > 1.1
    assert float(seen[1].max()) == 1.0
    assert float(seen[0].std()) == pytest.approx(0.12, rel=0.1)


def test_a_denoiser_stands_between_noise_and_model() -> None:
    seen: list[Tensor] = []
    model = pixel_model()
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    image = torch.full((1, 3, 16, 16), 0.5)
    MedianSmoothing(samples=8, denoiser=Blur()).bind(model).certify(image, drawn())
    assert float(seen[0].std()) == pytest.approx(0.12 / 3, rel=0.1)


def test_median_is_the_middle_or_the_mean_of_two() -> None:
    model, image = pixel_model(), images_of(1)
    for samples in (7, 8):
        scores = noisy_scores(image, samples, sigma=0.12)
        certificate = MedianSmoothing(samples=samples).bind(model).certify(image, drawn())
        torch.testing.assert_close(certificate.scores, scores.double().quantile(0.5, dim=-1))


def test_few_samples_abstain(make_model: MakeModel) -> None:
    certificate = MedianSmoothing(samples=5).bind(make_model()).certify(images_of(), drawn())
    assert certificate.abstained.tolist() == [True] * 3
    assert certificate.delta.tolist() == [math.inf] * 3
    assert bool(certificate.scores.isfinite().all())


def test_mean_is_of_clipped_scores_in_model_units() -> None:
    model = pixel_model(gain=100.0, scale=ScoreScale(10, 40))
    certificate = MeanSmoothing(samples=100).bind(model).certify(images_of(), drawn())
    torch.testing.assert_close(certificate.scores, torch.full((3,), 40.0).double())
    assert bool((certificate.lower >= 10).all())
    torch.testing.assert_close(certificate.upper, torch.full((3,), 40.0).double())


def test_mean_needs_a_score_range() -> None:
    with pytest.raises(ModelLoadError, match=r"range of pixels, which is not known.*--score-range"):
        MeanSmoothing().bind(pixel_model(scale=None))


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ModelLoadError, match="scores that are not finite"):
        MedianSmoothing(samples=3).bind(pixel_model(gain=math.nan)).certify(images_of(), drawn())


def test_words_change_settings_in_units_of_images() -> None:
    assert SMOOTHERS.read("ms:samples=200,sigma=0.25,radius=0.1") == MedianSmoothing(
        samples=200, sigma=0.25, radius=0.1
    )
    assert SMOOTHERS.read("rs:confidence=0.9,clamp=true") == MeanSmoothing(confidence=0.9, clamp=True)
    assert SMOOTHERS.read("dms:denoiser=jpeg") == MedianSmoothing(denoiser="jpeg", clamp=True)
    assert {smoother.guarantee for smoother in (SMOOTHERS[word] for word in ("ms", "rs", "drs", "dms"))} == {"global"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("mss", r"unknown smoother 'mss'; did you mean ms\? known are ms, rs, drs, dms"),
        ("ms:sgma=1", "unknown smoother setting 'sgma'; known are samples, sigma"),
        ("ms:sigma=0", "smoother 'ms:sigma=0': MedianSmoothing needs sigma"),
        ("ms:samples=many", "samples must be int"),
    ],
)
def test_words_that_mean_nothing_are_refused(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SMOOTHERS.read(word)


def test_a_smoothed_model_is_a_quality_model(make_model: MakeModel) -> None:
    smoothed = Smoothed(make_model(scale=RANGE), KINDS[0], word="ms:samples=40,sigma=0.1")
    assert isinstance(smoothed, Defended)
    assert smoothed.is_random
    assert (smoothed.name, smoothed.description) == ("small + ms:samples=40,sigma=0.1", "ms:samples=40,sigma=0.1")
    assert smoothed.scale == RANGE
    images = images_of()
    first, second = smoothed(images), smoothed(images)
    assert first.shape == (3,)
    assert not torch.equal(first, second)
    smoothed.reseed(0)
    assert torch.equal(smoothed(images), first)
    assert torch.equal(smoothed.certify(images, drawn()).lower, smoothed.certify(images, drawn()).lower)


@pytest.mark.parametrize("smoothing", KINDS)
def test_attackers_get_a_gradient_and_move_the_smoothed_score(
    smoothing: MedianSmoothing, make_model: MakeModel
) -> None:
    narrow = ScoreScale(-1e-3, 1e-3)  # most scores are clipped, which must not hide the gradient
    smoothed = Smoothed(make_model(scale=narrow), smoothing, word="word")
    images = images_of()
    with frozen(smoothed):
        attacked = PGD(epsilon=8 / 255, steps=3)(smoothed.attacked_scores, images, drawn())
        wide = replace(smoothing, samples=200).bind(make_model(scale=ScoreScale(-50, 50)))
        assert bool((wide.scores(attacked, drawn()) > wide.scores(images, drawn())).all())


def test_attacked_scores_average_a_few_copies() -> None:
    model = pixel_model()
    seen: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    Smoothed(model, MedianSmoothing(), word="ms").attacked_scores(images_of(2))
    assert sum(seen) == 2 * ATTACKED_COPIES


def test_smoothing_of_a_purified_model_is_attacked_through_both() -> None:
    inner = Purified(pixel_model(), {"coarse": Coarse()})
    smoothed = Smoothed(inner, MedianSmoothing(samples=9), word="ms")
    assert smoothed.name == "pixels + coarse + ms"
    images = images_of().requires_grad_()
    (gradient,) = torch.autograd.grad(smoothed.attacked_scores(images).sum(), images)
    assert float(gradient.abs().max()) > 0
    assert smoothed.certify(images, drawn()).scores.shape == (3,)
