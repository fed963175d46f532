"""Gradient penalty and adversarial training: by hand, against plain fitting, resumed, refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_training import fit_small, images_of, settings
from torch import Tensor, nn

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.pgd import PGD
from iqa_armor.errors import DataError, RecipeError
from iqa_armor.metrics.fidelity import ssim
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.recipe import Training
from iqa_armor.training import DEFENSES, LOSSES
from iqa_armor.training.adversarial import TeacherConsistency
from iqa_armor.training.defenses import FitContext, GradientNorm, Step, TrainingDefense, gradient_norms

BARE = Preprocessing(size=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Linear(nn.Module):
    """A score that is one weighted sum of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.5, 1.0, 3 * 12 * 12).view(3, 12, 12))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight).sum((1, 2, 3))


def context(mos: Tensor | None = None, spread: float = 1.0, **settings: Any) -> FitContext:
    """What a fit to labels 1 and 3 knows, in a network that takes pixels as they are."""
    known = {name: settings.pop(name) for name in ("std", "teacher", "unlabelled") if name in settings}
    labels = torch.tensor([1.0, 3.0]) if mos is None else mos
    asked = Training(**settings)
    return FitContext(asked, labels, spread, LOSSES.read(asked.loss), **{"std": torch.ones(3), **known})


def made(defense: str, **known: Any) -> TrainingDefense:
    return DEFENSES.read(defense).of(context(defense=defense, **known))


def linear_model() -> QualityModel:
    return QualityModel(Linear(), BARE)


def drawn(count: int = 4, side: int = 12) -> Tensor:
    return 0.2 + 0.6 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("step", "tolerance"), [(0.01, 1e-3), (0.0, 1e-5)])
def test_gradient_norm_of_a_linear_score_is_the_sum_of_its_weights(step: float, tolerance: float) -> None:
    model = linear_model()
    expected = model.network.weight.detach().abs().sum()
    norms = gradient_norms(model, drawn(), step=step)
    torch.testing.assert_close(norms, expected.expand(4), rtol=tolerance, atol=0)


def test_nt_by_hand() -> None:
    # Labels span 40, which are 8 in the unit of the targets and count as 100 points: 12.5 points each. A step of 0.01
    # normalised pixels is 0.01 · std pixels, so the quotient of a linear score is Σ std · |w|, in points 12.5 of that.
    model, std = linear_model(), torch.tensor([0.2, 0.25, 0.5])
    slope = (std.view(3, 1, 1) * model.network.weight.detach().abs()).sum()
    penalty = made("nt", mos=torch.tensor([10.0, 50.0]), spread=5.0, std=std, nt_weight=0.5).penalty(
        Step(model, drawn(), torch.zeros(4))
    )
    torch.testing.assert_close(penalty, 0.25 * (12.5 * slope) ** 2, rtol=1e-3, atol=0)
    penalty.backward()
    assert float(model.network.weight.grad.abs().min()) > 0


@pytest.mark.parametrize("step", [0.01, 0.0])
def test_scale_free_penalty_is_not_lowered_by_shrinking_the_scores(step: float) -> None:
    model, defense = linear_model(), made("nt-scaled", nt_step=step)
    whole = defense.penalty(Step(model, drawn(), torch.zeros(4), done=0.7))
    with torch.no_grad():
        expected = 1e-3 * model.network.weight.abs().sum() / model(drawn()).std()
        model.network.weight *= 0.1
    torch.testing.assert_close(whole.detach(), expected, rtol=1e-3, atol=0)
    shrunk = [defense.penalty(Step(model, drawn(), torch.zeros(4), done=done)) for done in (0.7, 0.1, 0.0)]
    torch.testing.assert_close(shrunk[0].detach(), expected, rtol=1e-2, atol=0)
    torch.testing.assert_close(shrunk[1].detach(), expected / 4, rtol=1e-2, atol=0)
    assert float(shrunk[2].detach()) == 0


@pytest.mark.parametrize("defense", ["nt", "nt-scaled", "teacher"])
def test_penalty_reaches_an_orthogonal_block(defense: str) -> None:
    block = RobustBlock(4)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), block, nn.SiLU(), nn.Flatten(), nn.LazyLinear(1))
    model = QualityModel(network, BARE)
    model(drawn())
    model.train()
    made(defense).penalty(Step(model, drawn(), torch.zeros(4), done=0.5)).backward()
    assert float(block.orthogonal.weight.grad.abs().max()) > 0


def test_dropout_is_no_noise_in_the_penalty() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Dropout(0.75), nn.Linear(800, 1))
    model = QualityModel(network, BARE).train()
    first, second = (gradient_norms(model, drawn(), step=0.01) for _ in range(2))
    assert torch.equal(first, second)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("spread", [5.0, -5.0])
def test_at_by_hand(spread: float) -> None:
    model, images, mos = linear_model(), drawn(), torch.tensor([10.0, 30.0, 20.0, 40.0])
    targets = (mos - mos.mean()) / spread
    with torch.no_grad():  # scores two above their targets, but for the last, which is two below
        offset = targets + torch.tensor([2.0, 2.0, 2.0, -2.0]) - model(images)
    model.network.register_buffer("offset", offset)
    model.network.forward = lambda x: (x * model.network.weight).sum((1, 2, 3)) + offset
    both, lowered = made("at", mos=mos, spread=spread, loss="mse", at_epsilon=2).batch(Step(model, images, targets))
    away = torch.tensor([1.0, 1.0, 1.0, -1.0]).view(-1, 1, 1, 1) * model.network.weight.detach().sign()
    torch.testing.assert_close(both[:4], images + 2 / 255 * away)
    assert torch.equal(both[4:], images)
    # 30 points of labels are 6 in the unit of the targets; the label, which is quality, falls, but not below 10.
    fall = math.copysign(6, spread) * (1 - ssim(images, both[:4]))
    torch.testing.assert_close(lowered[:4], (targets - fall).clamp(-3, 3))
    assert bool((lowered[1:4] != targets[1:4]).all())
    assert lowered[0] == targets[0] == math.copysign(3, -spread)
    assert torch.equal(lowered[4:], targets)
    assert model.network.weight.grad is None


def test_a_teacher_that_is_the_model_costs_nothing_without_a_budget() -> None:
    model = linear_model()
    step = Step(model, drawn(), torch.full((4,), 9.0), done=1.0)
    assert TeacherConsistency(model, epsilon=0.0).penalty(step).item() == 0
    assert TeacherConsistency(model, epsilon=1 / 255).penalty(step).item() > 0


def test_teacher_by_hand() -> None:
    model = linear_model()
    weight, images = model.network.weight.detach(), drawn()
    defense = made("teacher", teacher=lambda x: model(x).detach() + 3, teacher_epsilon=4.0)
    # A score below its teacher's falls: two steps of 0.625 ε from a point of the ball, which end within it. The budget
    # is a tenth of the whole at first, 55 % after a fifth of the steps, and the whole after 40 %.
    for done, share in ((0.0, 0.1), (0.2, 0.55), (0.4, 1.0), (0.9, 1.0)):
        torch.manual_seed(3)
        penalty = defense.penalty(Step(model, images, torch.zeros(4), done)).item()
        torch.manual_seed(3)
        start = 2 * torch.rand_like(images) - 1
        moved = share * 4 / 255 * (start - 1.25 * weight.sign()).clamp(-1, 1)
        expected = 9 + (3 - (moved * weight).sum((1, 2, 3))).square().mean().item()
        assert penalty == pytest.approx(expected, rel=1e-4)


def test_a_teacher_scores_images_without_labels_too_and_labels_stand_in_for_a_teacher() -> None:
    model, asked = linear_model(), []
    extra = lambda count: asked.append(count) or torch.rand(count, 3, 12, 12)  # noqa: E731
    seen = []
    teacher = lambda x: seen.append(len(x)) or model(x)  # noqa: E731
    step = Step(model, drawn(), torch.full((4,), 5.0))
    made("teacher", teacher=teacher, unlabelled=extra).penalty(step)
    assert (asked, seen) == ([4], [8])
    with torch.no_grad():
        apart = (model(drawn()) - 5).square().mean() / 2
    assert made("teacher", unlabelled=extra, teacher_weight=1.0, teacher_epsilon=1e-9).penalty(
        step
    ).item() == pytest.approx(2 * apart.item())


@pytest.mark.parametrize("defense", DEFENSES)
def test_defenses_leave_the_statistics_of_batch_norm(make_model, defense: str) -> None:
    model = make_model().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    step = Step(model, torch.rand(4, 3, 32, 40), torch.zeros(4), 0.5)
    made(defense).batch(step)
    made(defense).penalty(step)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def fitted(make_model, **changes: object) -> tuple[QualityModel, Tensor]:
    model = make_model()
    data = images_of(model)
    done = fit_small(model, settings(epochs=8, **changes), images=data)
    assert done.epochs[done.best].srocc > 0.9
    return model, torch.stack([data.fitted[i][0] for i in range(len(data.fitted))])


def gradient_norm(model: QualityModel, images: Tensor) -> float:
    return float(gradient_norms(model, images, step=0).detach().mean())


def scores_std(model: QualityModel, images: Tensor) -> float:
    with torch.no_grad():
        return float(model(images).std())


def gain_of(model: QualityModel, images: Tensor, epsilon: float) -> float:
    with frozen(model):
        attacked = PGD(epsilon, epsilon, steps=1)(model, images, torch.Generator())
        return float((model(attacked) - model(images)).mean())


def test_nt_makes_the_input_gradient_smaller(make_model) -> None:
    plain = gradient_norm(*fitted(make_model))
    assert gradient_norm(*fitted(make_model, defense="nt", nt_weight=0)) == pytest.approx(plain)
    assert gradient_norm(*fitted(make_model, defense="nt", nt_weight=1e-3)) < 0.75 * plain
    scaled = {weight: fitted(make_model, defense="nt-scaled", nt_weight=weight, nt_step=0) for weight in (0, 1)}
    relative = {w: gradient_norm(model, images) / scores_std(model, images) for w, (model, images) in scaled.items()}
    assert relative[1] < 0.9 * relative[0]


def test_at_makes_the_gain_of_one_step_smaller(make_model) -> None:
    plain, trained = fitted(make_model), fitted(make_model, defense="at", at_epsilon=32)
    assert gain_of(*trained, 32 / 255) < 0.6 * gain_of(*plain, 32 / 255)


@pytest.mark.parametrize("defense", ["nt", "at", "teacher"])
def test_defenses_run_in_half_precision(make_model, defense: str) -> None:
    model = make_model()
    done = fit_small(model, settings(epochs=1, defense=defense, precision="bf16"))
    assert done.epochs[1].loss > 0
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_at_learns_where_small_scores_are_good(make_model) -> None:
    model = make_model()
    done = fit_small(model, settings(epochs=6, defense="at"), turned=True)
    assert done.epochs[done.best].srocc > 0.8


def test_images_too_small_for_ssim_are_refused() -> None:
    with pytest.raises(DataError, match="--input-size"):
        made("at").batch(Step(linear_model(), drawn(side=8), torch.zeros(4)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"defense": "trades"}, "defense: unknown training defense 'trades'.*got 'trades'"),
        ({"defense": "nt", "epochs": 0}, "defense: needs at least one epoch.*got 'nt'"),
        ({"nt_weight": -1}, "nt_weight"),
        ({"at_epsilon": 0}, "at_epsilon"),
        ({"nt_wieght": 1}, "did you mean 'nt_weight'"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Training.read(values)


def test_defenses_are_values() -> None:
    defense = made("nt", nt_weight=2, nt_step=0.5)
    assert defense == GradientNorm(2, 0.5, unit=50.0)
    assert replace(defense, step=0.1) != defense
