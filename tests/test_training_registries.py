"""Losses and training defenses by name: every one keeps its contract, and users add their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tables import rows_of
from test_training import fit_small, settings
from test_training_robust import context

from iqa_armor.errors import RecipeError
from iqa_armor.recipe import Training
from iqa_armor.training import DEFENSES, LOSSES, GradientNorm
from iqa_armor.training.defenses import Step, TrainingDefense

MINE = """
from dataclasses import dataclass
import torch
from iqa_armor.training import TrainingDefense

calls = []

@dataclass(frozen=True)
class Huber:
    delta: float = 1.0

    def __call__(self, scores, mos):
        return torch.nn.functional.huber_loss(scores, mos, delta=self.delta)

class Darker(TrainingDefense):
    def batch(self, step):
        calls.append(len(step.images))
        return 0.9 * step.images, step.targets

NUMBER = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_smaller_for_the_better_order(name: str) -> None:
    loss, mos = LOSSES.read(name), torch.tensor([-1.0, 0.0, 1.0, 0.5])
    good, bad = mos.clone().requires_grad_(), mos.flip(0).requires_grad_()
    assert loss(good, mos).shape == ()
    assert 0 <= loss(good, mos).item() < 1e-6 < loss(bad, mos).item()
    loss(bad, mos).backward()
    assert bad.grad is not None
    assert float(bad.grad.abs().max()) > 0


@pytest.mark.parametrize("name", [*DEFENSES, "at+teacher+hinge"])
def test_a_defense_gives_whole_batches_and_draws_from_the_generator_that_checkpoints_keep(
    make_model, name: str
) -> None:
    defense = DEFENSES.read(name).of(context(defense=name))
    step = Step(make_model(), torch.rand(4, 3, 32, 40), torch.zeros(4), done=0.5)
    state = torch.get_rng_state()
    images, targets = defense.batch(step)
    assert len(images) == len(targets) in (4, 8)
    before = [each.clone() for each in step.model.parameters()]
    with defense.moved(step.model, lambda: step.model(images).square().mean()):
        pass
    assert all(torch.equal(a, b) for a, b in zip(step.model.parameters(), before, strict=True))
    penalty = torch.as_tensor(defense.penalty(step))
    assert penalty.item() >= 0
    torch.set_rng_state(state)
    assert all(torch.equal(a, b) for a, b in zip((images, targets), defense.batch(step), strict=True))
    assert torch.equal(penalty, torch.as_tensor(defense.penalty(step)))


@pytest.mark.parametrize("registry", [LOSSES, DEFENSES], ids=["losses", "defenses"])
def test_registries_describe_themselves(registry) -> None:
    assert all(row.says for row in rows_of(registry))
    assert registry.summary().startswith(", ".join(registry))


def test_names_are_known_without_torch() -> None:
    code = "import sys; from iqa_armor.training import LOSSES; LOSSES.summary(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_classes_are_importable_from_the_package() -> None:
    assert DEFENSES["nt"] is GradientNorm
    assert DEFENSES["none"] is TrainingDefense


def test_a_loss_of_ones_own_is_fitted(make_model, mine: Path) -> None:
    asked = Training(epochs=4, learning_rate=3e-3, loss=f"{mine}:Huber:delta=0.5")
    assert LOSSES.read(asked.loss).delta == 0.5  # type: ignore[attr-defined]
    done = fit_small(make_model(), asked)
    assert done.epochs[done.best].srocc > 0.5


def test_a_defense_of_ones_own_is_fitted(make_model, mine: Path) -> None:
    fit_small(make_model(), settings(epochs=1, defense=f"{mine}:Darker"))
    assert sys.modules["iqa_armor_user_mine"].calls == [8] * 7


@pytest.mark.parametrize("name", ["teacher+zzz", "zzz+awp", "awp+", "teacher awp"])
def test_an_unknown_part_of_several_defenses_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"unknown training defense.*several joined by \+"):
        Training(defense=name)


@pytest.mark.parametrize("name", ["norm_in_norm", "plcc-mse", "zzz"])
def test_an_unknown_loss_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(RecipeError, match=r"unknown loss.*known are norm-in-norm, plcc, mse"):
        Training(loss=name)


def test_objects_that_are_no_loss_or_defense_are_refused(mine: Path) -> None:
    with pytest.raises(RecipeError, match="no loss: it must be a function"):
        LOSSES.read(f"{mine}:NUMBER")
    with pytest.raises(RecipeError, match="no training defense"):
        DEFENSES.read(f"{mine}:Huber")
