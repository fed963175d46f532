"""Feature smoothing: bounds that hold where first order is exact, abstention, calibration and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import contrast_images
from scipy.stats import binom, binomtest, norm
from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import BoundSmoother, Smoother
from iqa_armor.defenses.defended import Purified
from iqa_armor.defenses.smoothing.feature_smoothing import FeatureSmoothing
from iqa_armor.defenses.smoothing.input_smoothing import median_ranks
from iqa_armor.errors import ArmorError, SurgeryError, UsageError
from iqa_armor.models.base import Preprocessing, QualityModel

ModelMaker = Callable[..., QualityModel]


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def images(count: int = 4) -> Tensor:
    return contrast_images(count)[0].float() / 255


class LinearFeatures(nn.Module):
    """A linear backbone, and a head that rises with the first feature alone."""

    def __init__(self, *, curved: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.project = nn.Linear(3 * 4 * 4, 6, bias=False)
        self.score = nn.Linear(6, 1, bias=False)
        self.curved = curved
        with torch.no_grad():
            self.score.weight.zero_()[0, 0] = 1.0

    def forward(self, normalised: Tensor) -> Tensor:
        scores = self.score(self.project(normalised.flatten(1)))
        return torch.sinh(scores) if self.curved else scores


def linear_model() -> QualityModel:
    preprocessing = Preprocessing(size=(4, 4), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return QualityModel(LinearFeatures(), preprocessing).eval()


@pytest.mark.parametrize(("samples", "shift", "confidence"), [(1000, 5 / 12, 0.999), (200, 0.1, 0.9), (50, 1.0, 0.99)])
def test_median_ranks_are_the_extreme_ones_that_hold(samples: int, shift: float, confidence: float) -> None:
    low, high = median_ranks(samples, shift, confidence)
    alpha = 1 - confidence
    assert binom.cdf(low - 1, samples, norm.cdf(-shift)) <= alpha / 2 < binom.cdf(low, samples, norm.cdf(-shift))
    assert (
        binom.cdf(high - 1, samples, norm.cdf(shift)) >= 1 - alpha / 2 > binom.cdf(high - 2, samples, norm.cdf(shift))
    )


def test_too_few_samples_have_no_such_index() -> None:
    assert median_ranks(5, 0.4, 0.999) == (0, 6)
    with pytest.raises(ValueError, match="samples >= 1"):
        median_ranks(0, 0.4, 0.999)


def test_it_is_a_smoother(make_model: ModelMaker) -> None:
    assert isinstance(FeatureSmoothing(), Smoother)
    assert isinstance(FeatureSmoothing().bind(make_model()), BoundSmoother)
    assert FeatureSmoothing.guarantee == "local, first-order"


def test_true_smoothed_score_leaves_the_bounds_no_more_often_than_stated() -> None:
    """On a linear backbone s is exact; the smoothed score under the worst change has a closed form."""
    model, confidence, cases = linear_model(), 0.9, 2400
    smoothing = FeatureSmoothing(samples=100, radius=0.05, confidence=confidence, multiple=2.0)
    bound = smoothing.bind(model)
    pixels = torch.rand(cases, 3, 4, 4, generator=seeded(0))
    jacobian = 1.01 * 2 * float(torch.linalg.matrix_norm(model.network.project.weight.detach().double(), 2))
    found = FeatureSmoothing(**{**vars(smoothing), "mode": "calibrated", "jacobian": jacobian}).bind(model)
    certificate = found.certify(pixels, seeded(1))
    # The median of sinh(z₁ + σ·noise) is sinh(z₁): odd noise, rising head. A change of the features moves it to any
    # sinh(z₁ ± s·r); the worst feature change is along the first one.
    first = bound.features(pixels).detach()[:, 0].double()
    worst = jacobian * smoothing.radius
    violated = (torch.sinh(first - worst) < certificate.lower) | (torch.sinh(first + worst) > certificate.upper)
    assert not bool(certificate.abstained.any())
    assert binomtest(int(violated.sum()), cases, 1 - confidence, alternative="greater").pvalue > 1e-3
    # The bounds are those of the order statistics, not wider: about as many as stated leave.
    assert int(violated.sum()) > cases * (1 - confidence) / 10
    assert bool((certificate.delta > 0).all())


def test_measured_and_calibrated_modes_agree_where_the_jacobian_is_one(make_model: ModelMaker) -> None:
    model = linear_model()
    pixels = torch.rand(5, 3, 4, 4, generator=seeded(0))
    measured = FeatureSmoothing(samples=200).bind(model).certify(pixels, seeded(3))
    calibrated = FeatureSmoothing(samples=200).calibrate(model, pixels[:2])
    known = calibrated.bind(model).certify(pixels, seeded(3))
    expected = 1.01 * 2 * torch.linalg.matrix_norm(model.network.project.weight.detach().double(), 2)
    torch.testing.assert_close(measured.jacobian, expected.expand(5), rtol=1e-3, atol=0)
    torch.testing.assert_close(known.lower, measured.lower, rtol=1e-2, atol=1e-3)
    assert calibrated.mode == "calibrated"
    assert calibrated.samples == 200


def test_calibration_takes_the_largest_jacobian(make_model: ModelMaker) -> None:
    model, pixels = make_model(), images()
    each = FeatureSmoothing().bind(model).certify(pixels, seeded(0)).jacobian
    found = FeatureSmoothing().calibrate(model, pixels, batch_size=3)
    assert found.jacobian == pytest.approx(float(each.max()), rel=1e-5)
    assert float(each.min()) < 0.9 * float(each.max())


def test_a_given_noise_level_needs_no_jacobian_without_certificate(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iqa_armor.defenses.smoothing import feature_smoothing

    bound = FeatureSmoothing(sigma=0.3, samples=50).bind(make_model())
    certificate = bound.certify(images(), seeded(0))
    assert certificate.sigma.tolist() == pytest.approx([0.3] * 4)
    monkeypatch.setattr(feature_smoothing, "largest_singular_value", None)
    torch.testing.assert_close(bound.scores(images(), seeded(0)), certificate.scores)


@pytest.mark.parametrize("settings", [{}, {"sigma": 0.3}, {"mode": "calibrated", "jacobian": 2.0}])
def test_scores_are_those_of_the_certificate(make_model: ModelMaker, settings: dict[str, float]) -> None:
    bound = FeatureSmoothing(samples=64, **settings).bind(make_model())
    certificate = bound.certify(images(), seeded(0))
    torch.testing.assert_close(bound.scores(images(), seeded(0)).detach(), certificate.scores)
    assert bool((certificate.lower <= certificate.scores).all())
    assert bool((certificate.scores <= certificate.upper).all())


def test_gradients_flow_through_scores(make_model: ModelMaker) -> None:
    bound = FeatureSmoothing(mode="calibrated", jacobian=1.0).bind(make_model())
    pixels = images().requires_grad_()
    bound.scores(pixels, seeded(0), samples=5).sum().backward()
    assert bool((pixels.grad.flatten(1).norm(dim=1) > 0).all())
    assert not bound.certify(pixels, seeded(0)).scores.requires_grad


def test_an_image_whose_jacobian_did_not_converge_has_no_bounds(make_model: ModelMaker) -> None:
    certificate = FeatureSmoothing(steps=2).bind(make_model()).certify(images(), seeded(0))
    assert not bool(certificate.converged.any())
    assert bool(certificate.abstained.all())
    assert bool(certificate.scores.isfinite().all())
    with pytest.raises(ArmorError, match=r"4 of 4 calibration images did not converge"):
        FeatureSmoothing(steps=2).calibrate(make_model(), images())


def test_an_image_without_a_finite_jacobian_has_no_bounds() -> None:
    model = linear_model()
    pixels = torch.rand(2, 3, 4, 4)
    pixels[0, 0, 0, 0] = math.nan
    model.network.project = nn.Sequential(model.network.project, nn.Tanh())
    certificate = FeatureSmoothing(sigma=1.0).bind(model).certify(pixels, seeded(0))
    assert certificate.abstained.tolist() == [True, False]


def test_a_score_that_is_no_number_has_no_bounds() -> None:
    class Root(nn.Module):
        def forward(self, scores: Tensor) -> Tensor:
            return scores.sqrt()

    model = linear_model()
    model.network.score = nn.Sequential(model.network.score, Root())
    certificate = FeatureSmoothing(samples=200).bind(model).certify(torch.rand(1, 3, 4, 4), seeded(0))
    assert bool(certificate.abstained.all())


def test_too_few_samples_abstain(make_model: ModelMaker) -> None:
    certificate = FeatureSmoothing(samples=5).bind(make_model()).certify(images(), seeded(0))
    assert bool(certificate.abstained.all())
    assert bool(certificate.converged.all())


def test_the_model_keeps_its_mode_and_its_scores(make_model: ModelMaker) -> None:
    model = make_model().train()
    FeatureSmoothing().bind(model).certify(images(), seeded(0))
    assert all(module.training for module in model.modules())
    fresh = make_model()
    model.eval()
    torch.testing.assert_close(model(images()), fresh(images()), rtol=0, atol=0)


def test_the_global_bound_stands_beside_and_is_larger(make_model: ModelMaker) -> None:
    bound = FeatureSmoothing().bind(make_model())
    certificate, product = bound.certify(images(), seeded(0)), bound.global_bound()
    assert product.problem == ""
    assert bool((certificate.jacobian <= product.value).all())
    assert bool((certificate.global_radius(product.value) <= certificate.radius).all())


def test_maps_can_be_smoothed_too(make_model: ModelMaker) -> None:
    bound = FeatureSmoothing(node="_5", samples=100).bind(make_model())
    assert bound.features(images()).shape == (4, 24, 8, 10)
    assert not bool(bound.certify(images(), seeded(0)).abstained.any())


def test_noise_is_drawn_in_parts_where_features_are_many(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iqa_armor.defenses.smoothing import feature_smoothing

    monkeypatch.setattr(feature_smoothing, "CHUNK", 1000)
    certificate = FeatureSmoothing(samples=100).bind(make_model()).certify(images(), seeded(0))
    assert not bool(certificate.abstained.any())


@pytest.mark.parametrize(
    "settings",
    [{"samples": 0}, {"radius": 0}, {"confidence": 1}, {"multiple": -1}, {"tolerance": 0}, {"mode": "both"},
     {"sigma": -1}, {"jacobian": math.inf, "mode": "calibrated"}, {"jacobian": 1.0}],
)  # fmt: skip
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"FeatureSmoothing needs|mode=calibrated only"):
        FeatureSmoothing(**settings)


def test_what_cannot_be_smoothed_is_refused(make_model: ModelMaker) -> None:
    with pytest.raises(UsageError, match="jacobian=NUMBER"):
        FeatureSmoothing(mode="calibrated").bind(make_model())
    with pytest.raises(SurgeryError, match="no tensor is called 'layer4'"):
        FeatureSmoothing(node="layer4").bind(make_model())

    class Nothing:
        is_differentiable, is_random = True, False

        def __call__(self, given: Tensor, generator: Generator) -> Tensor:
            return given

    with pytest.raises(UsageError, match="plain model"):
        FeatureSmoothing().bind(Purified(make_model(), {"nothing": Nothing()}))
    with pytest.raises(ArmorError, match="none of the calibration images"):
        FeatureSmoothing().calibrate(make_model(), images()[:0])
