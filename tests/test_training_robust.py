"""Gradient penalty and adversarial training: by hand, against plain fitting, resumed, refused."""

from __future__ import annotations

from dataclasses import replace

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
from iqa_armor.training import DEFENSES
from iqa_armor.training.defenses import AdversarialTraining, GradientNorm, TrainingDefense, gradient_norms

BARE = Preprocessing(size=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Linear(nn.Module):
    """A score that is one weighted sum of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.5, 1.0, 3 * 12 * 12).view(3, 12, 12))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight).sum((1, 2, 3))


def defense_of(settings: Training, mos: Tensor, spread: float) -> TrainingDefense:
    return DEFENSES.read(settings.defense).of(settings, mos, spread)


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
    penalty = GradientNorm(weight=0.5, step=step).penalty(model, drawn())
    torch.testing.assert_close(penalty, 0.5 * expected, rtol=tolerance, atol=0)
    penalty.backward()
    torch.testing.assert_close(model.network.weight.grad, 0.5 * model.network.weight.detach().sign(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("step", [0.01, 0.0])
def test_penalty_reaches_an_orthogonal_block(step: float) -> None:
    block = RobustBlock(4)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), block, nn.SiLU(), nn.Flatten(), nn.LazyLinear(1))
    model = QualityModel(network, BARE)
    model(drawn())
    model.train()
    GradientNorm(step=step).penalty(model, drawn()).backward()
    assert float(block.orthogonal.weight.grad.abs().max()) > 0


def test_dropout_is_no_noise_in_the_penalty() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Dropout(0.75), nn.Linear(800, 1))
    model = QualityModel(network, BARE).train()
    first, second = (gradient_norms(model, drawn(), step=0.01) for _ in range(2))
    assert torch.equal(first, second)
    assert all(module.training for module in model.modules())


def test_labels_of_the_attacked_half_fall_by_the_lost_similarity() -> None:
    model, images, targets = linear_model(), drawn(5), torch.zeros(5)
    moved, lowered = AdversarialTraining(score_range=3.0).batch(model, images, targets)
    expected = images[:2] + 4 / 255 * model.network.weight.detach().sign()
    torch.testing.assert_close(moved[:2], expected)
    assert torch.equal(moved[2:], images[2:])
    torch.testing.assert_close(lowered[:2], -3 * (1 - ssim(images[:2], expected)))
    assert bool((lowered[:2] < -0.001).all())
    assert torch.equal(lowered[2:], targets[2:])
    assert model.network.weight.grad is None


def test_where_small_scores_are_good_the_attack_lowers_them_and_labels_rise() -> None:
    model, images, targets = linear_model(), drawn(), torch.zeros(4)
    mos = torch.tensor([10.0, 30.0])
    defense = defense_of(Training(defense="at", at_epsilon=2), mos, -5.0)
    assert defense == AdversarialTraining(4.0, direction=-1, epsilon=2 / 255)
    moved, corrected = defense.batch(model, images, targets)
    torch.testing.assert_close(moved[:2], images[:2] - 2 / 255 * model.network.weight.detach().sign())
    # The target −(label) / 5 rises: the label, which is quality, falls.
    torch.testing.assert_close(corrected[:2], 4 * (1 - ssim(images[:2], moved[:2])))


@pytest.mark.parametrize("defense", ["nt", "at"])
def test_defenses_leave_the_statistics_of_batch_norm(make_model, defense: str) -> None:
    model = make_model().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    made = defense_of(Training(defense=defense), torch.tensor([0.0, 1.0]), 1.0)
    images = torch.rand(4, 3, 32, 40)
    made.batch(model, images, torch.zeros(4))
    made.penalty(model, images)
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


def gain_of(model: QualityModel, images: Tensor, epsilon: float) -> float:
    with frozen(model):
        attacked = PGD(epsilon, epsilon, steps=1)(model, images, torch.Generator())
        return float((model(attacked) - model(images)).mean())


def test_nt_makes_the_input_gradient_smaller(make_model) -> None:
    plain = gradient_norm(*fitted(make_model))
    assert gradient_norm(*fitted(make_model, defense="nt", nt_weight=0)) == pytest.approx(plain)
    assert gradient_norm(*fitted(make_model, defense="nt", nt_weight=0.1)) < 0.75 * plain
    assert gradient_norm(*fitted(make_model, defense="nt", nt_weight=0.1, nt_step=0)) < 0.9 * plain


def test_at_makes_the_gain_of_one_step_smaller(make_model) -> None:
    plain, trained = fitted(make_model), fitted(make_model, defense="at", at_epsilon=32)
    assert gain_of(*trained, 32 / 255) < 0.6 * gain_of(*plain, 32 / 255)


@pytest.mark.parametrize("defense", ["nt", "at"])
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
        AdversarialTraining(1.0).batch(linear_model(), drawn(side=8), torch.zeros(4))


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
    made = defense_of(Training(defense="nt", nt_weight=2, nt_step=0.5), torch.zeros(2), 1.0)
    assert made == GradientNorm(2, 0.5)
    assert replace(made, step=0.1) != made
