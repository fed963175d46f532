"""Weights moved against the loss, attacked images among clean ones, and several defenses at once: by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_training import fit_small, settings
from test_training_robust import drawn, linear_model, made
from torch import nn

from iqa_armor.training.adversarial import AnchoredRanking
from iqa_armor.training.defenses import Step, Together, WeightPerturbation


def test_awp_by_hand() -> None:
    # ‖w‖ = 5; the gradient of (3 w₁ + 4 w₂)² / 2 at (3, 4) lies along (3, 4): w grows by γ of itself. The bias stays.
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        model.bias.fill_(0.0)
    images = torch.tensor([[3.0, 4.0]])

    def objective() -> torch.Tensor:
        return model(images).square().sum() / 2

    with WeightPerturbation(size=0.1).moved(model, objective):
        torch.testing.assert_close(model.weight.detach(), torch.tensor([[3.3, 4.4]]))
        assert model.bias.item() == 0
        objective().backward()
    # The gradient is that of the moved weights, (3 · 3.3 + 4 · 4.4) x, the weights are their own.
    torch.testing.assert_close(model.weight.grad, 27.5 * images)
    assert model.weight.tolist() == [[3.0, 4.0]]


def test_awp_gives_the_weights_back_after_an_error() -> None:
    model = nn.Linear(2, 1)
    before = model.weight.tolist()

    def fails_inside() -> None:
        with WeightPerturbation().moved(model, lambda: model(torch.ones(1, 2)).sum()):
            assert model.weight.tolist() != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_inside()
    assert model.weight.tolist() == before


def test_hinge_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Labels 0, 1, 2 and 2.05, which scores equal; the last two are nearer than the margin .1, so no pair. Most of what
    # the first two are paired with is better, so they go up; the others go down, each by ε ‖w‖₁ = r.
    monkeypatch.setattr("iqa_armor.training.adversarial.noisy", lambda images, epsilon: images)
    model, images, mos = linear_model(), drawn(), torch.tensor([0.0, 1.0, 2.0, 2.05])
    with torch.no_grad():
        offset = mos - model(images)
    model.network.forward = lambda x: (x * model.network.weight).sum((1, 2, 3)) + offset
    epsilon = 0.8 / float(model.network.weight.detach().abs().sum())  # r = .8
    penalty = AnchoredRanking(weight=2.0, epsilon=epsilon).penalty(Step(model, images, mos))
    # The first at .8 against 1, 2, 2.05: hinges 0. The second at 1.8 against 0, 2, 2.05: 0, 0, 0. The third at 1.2
    # against 0 and 1: 0, 0; the last at 1.25: 0, 0. With r = 1.5 they are at 1.5, 2.5, .5, .55: .6, 0, 0; 0, .6, .55;
    # 0, .6; 0, .55, over ten pairs.
    assert penalty.item() == pytest.approx(0, abs=1e-4)
    penalty = AnchoredRanking(weight=2.0, epsilon=1.5 / 0.8 * epsilon).penalty(Step(model, images, mos))
    assert penalty.item() == pytest.approx(2 * (0.6 + 0.6 + 0.55 + 0.6 + 0.55) / 10, rel=1e-4)
    penalty.backward()
    assert float(model.network.weight.grad.abs().max()) > 0


def test_several_defenses_add_their_penalties_and_chain_their_batches() -> None:
    step = Step(linear_model(), drawn(), torch.tensor([0.0, 1.0, 2.0, 3.0]), done=0.5)
    both = made("nt+awp+nt-scaled")
    assert isinstance(both, Together)
    expected = made("nt").penalty(step) + made("nt-scaled").penalty(step)
    torch.testing.assert_close(both.penalty(step), expected)
    twice = SimpleNamespace(batch=lambda step: (torch.cat([step.images] * 2), torch.cat([step.targets] * 2)))
    assert len(Together((twice, twice)).batch(step)[0]) == 16  # type: ignore[arg-type]


@pytest.mark.parametrize("defense", ["awp", "hinge", "teacher+awp", "teacher+hinge+awp"])
def test_they_fit_and_leave_the_statistics_of_norms(make_model, defense: str) -> None:
    done = fit_small(make_model(), settings(epochs=3, defense=defense))
    assert done.epochs[done.best].srocc > done.epochs[0].srocc
