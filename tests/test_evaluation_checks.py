"""Checks of the attacks' strength: honest models pass, broken defenses are exposed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import memory_dataset, small_network
from torch import Tensor, nn

from iqa_armor.evaluation.attack_gains import AttackGains, PassThrough, exceeds
from iqa_armor.evaluation.evaluation import evaluate
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.results.figures import StrengthCheck

SETTINGS = EvaluationSettings(
    attacks=("pgd1", "pgd8"),
    epsilons=(2 / 255, 4 / 255),
    ranking="none",
    checks=True,
    check_images=6,
    limit=6,
    resamples=20,
)


class Before(nn.Module):
    """A step in front of a network."""

    def __init__(self, step: Callable[[Tensor], Tensor], seed: int = 0) -> None:
        super().__init__()
        self.step = step
        self.network = small_network(seed).eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.step(images))


class NoGradient(torch.autograd.Function):
    """The identity, with a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)


class WrongGradient(torch.autograd.Function):
    """The identity, with a gradient that leads nowhere."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        noise = torch.rand(gradient.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        return noise * gradient.abs().mean()


def quality(step: Callable[[Tensor], Tensor], name: str) -> QualityModel:
    preprocessing = Preprocessing(size=(32, 40), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return QualityModel(Before(step), preprocessing, scale=ScoreScale(-0.02, 0.02), name=name).eval()


def checked(*steps: Callable[[Tensor], Tensor], **options: Any) -> dict[str, StrengthCheck]:
    """Return the checks of the last model by name; the others stand beside it."""
    models = [quality(step, str(number)) for number, step in enumerate(steps)]
    settings = SETTINGS.changed(**options)
    baseline = 0 if len(models) > 1 else None
    entry = evaluate(models, [memory_dataset(4, 8)], settings=settings, baseline=baseline).outcome.models[-1]
    return {check.name: check for check in entry.checks}


def statuses(checks: dict[str, StrengthCheck], *names: str) -> list[str]:
    return [checks[name].status for name in names]


@pytest.mark.parametrize("direction", [1, -1])
def test_honest_model_passes(direction: int) -> None:
    checks = checked(nn.Identity(), direction=direction)
    assert {check.status for check in checks.values()} == {"passed", "not applicable"}
    assert [name for name, check in checks.items() if check.status == "not applicable"] == [
        "random scores are averaged",
        "no step hides the gradient",
        "no borrowed attack is stronger",
    ]
    figures = checks["more steps, more gain"].figures
    assert 0 < figures["pgd1"] < figures["pgd8"] <= figures["pgd50"]  # type: ignore[operator]
    assert checks["no black-box attack is stronger"].figures["square"] > 0  # type: ignore[operator]


def test_without_checks_there_are_none() -> None:
    assert checked(nn.Identity(), checks=False) == {}


def test_quantizing_the_input_is_exposed() -> None:
    checks = checked(nn.Identity(), lambda images: torch.round(images * 8) / 8)
    failed = ("gradients do not vanish", "no step hides the gradient", "no borrowed attack is stronger")
    assert statuses(checks, *failed) == ["failed"] * 3
    assert checks["gradients do not vanish"].figures["vanished_share"] == 1
    assert "100% of the images have no gradient" in checks["gradients do not vanish"].says


def test_zeroing_the_gradient_is_exposed() -> None:
    checks = checked(NoGradient.apply)
    assert statuses(checks, "gradients do not vanish", "no black-box attack is stronger") == ["failed"] * 2
    assert checks["no black-box attack is stronger"].figures["white_box"] == pytest.approx(0, abs=0.002)


def test_gradients_that_mislead_are_exposed() -> None:
    checks = checked(nn.Identity(), WrongGradient.apply)
    assert statuses(checks, "gradients do not vanish", "no borrowed attack is stronger") == ["passed", "failed"]


def test_random_scores_are_attacked_in_the_mean() -> None:
    torch.manual_seed(0)
    checks = checked(lambda images: images + 0.5 * torch.randn_like(images))
    assert checks["random scores are averaged"].status in ("passed", "failed")
    assert checks["random scores are averaged"].figures["pgd8_through_expectation"] > 0  # type: ignore[operator]


def test_attack_that_finds_too_little_is_exposed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = AttackGains.known

    def weak(gains: AttackGains, name: str) -> Tensor:
        return known(gains, name) * (0.3 if name == "pgd8" else 1)

    monkeypatch.setattr(AttackGains, "known", weak)
    check = checked(nn.Identity())["PGD-8 is strong enough"]
    assert check.status == "failed"
    assert "name stronger attacks" in check.says


def test_one_budget_cannot_be_compared() -> None:
    checks = checked(nn.Identity(), epsilons=(4 / 255,))
    assert checks["more budget, more gain"].status == "not applicable"


@pytest.mark.parametrize(
    "step",
    [
        lambda x: (x * 4).round(),
        lambda x: torch.floor(x * 4),
        lambda x: torch.round(x, decimals=1),
        torch.sign,
        lambda x: x.detach(),
    ],
)
def test_steps_without_a_gradient_pass_it_on(step: Callable[[Tensor], Tensor]) -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    with PassThrough() as mode:
        passed = step(images)
    assert mode.passed == 1
    assert torch.equal(passed, step(images))
    (gradient,) = torch.autograd.grad(passed.sum(), images)
    assert (gradient > 0).all()
    with torch.no_grad(), mode:
        step(images)
    assert mode.passed == 1


def test_a_difference_must_exceed_chance_and_a_five_hundredth() -> None:
    weaker = torch.linspace(0, 1, 16)
    assert exceeds(weaker + 0.05, weaker)
    assert not exceeds(weaker + 0.001, weaker)
    noisy = weaker + 0.05 + torch.randn(16, generator=torch.Generator().manual_seed(0))
    assert not exceeds(noisy, weaker)
    assert exceeds(torch.tensor([1.0]), torch.tensor([0.5]))
