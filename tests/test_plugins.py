"""A researcher's own attack and purifier: written in a few lines, evaluated, checked and reported like ours."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from test_evaluation import SCORED, model
from torch import Generator, Tensor, nn

from iqa_armor import EvaluationSettings, Recipe, evaluate, harden, open_dataset, registry
from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.base import ScoreFn
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.scores import score_gradient
from iqa_armor.defenses.base import read_chain, read_purifier
from iqa_armor.defenses.defended import Purified
from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.graph.trace import trace
from iqa_armor.models.build import build
from iqa_armor.models.outputs import choose_output
from iqa_armor.pruning.prune import prune

ATTACK = """
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class Signs:
    norm = "linf"
    epsilon: float = 4 / 255
    direction: int = 1
    reach: float = 1.0

    def __call__(self, score, images, generator):
        x = images.detach().requires_grad_()
        (slope,) = torch.autograd.grad(score(x).sum(), x)
        return (images + self.reach * self.epsilon * self.direction * slope.sign()).clamp(0, 1)
"""
PURIFIER = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Darken:
    is_differentiable = True
    is_random = False
    by: float = 0.9

    def __call__(self, images, generator):
        return self.by * images
"""
EPSILONS = (2 / 255, 4 / 255)


def written(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return str(folder / f"{name}.py")


def test_an_attack_of_under_fifteen_lines_is_evaluated_like_ours(tmp_path: Path) -> None:
    assert len(ATTACK.strip().splitlines()) < 15
    word = f"{written(tmp_path, 'signs', ATTACK)}:Signs"
    settings = EvaluationSettings(attacks=(word, "pgd1"), epsilons=EPSILONS, ranking="none", resamples=20)
    entry = evaluate([model("m")], [SCORED], settings=settings).outcome.models[0]
    own, ours = entry.attacks[word], entry.attacks["pgd1"]
    assert set(own.abs_gain) == set(ours.abs_gain) == {"2", "4"}
    assert 0 < own.abs_gain["2"] < own.abs_gain["4"]
    with pytest.raises(ArmorError, match="more than its budget of 2/255"):
        evaluate([model("m")], [SCORED], settings=EvaluationSettings(attacks=(f"{word}:reach=2",), epsilons=EPSILONS))


def test_its_settings_are_read_in_the_units_of_ours(tmp_path: Path) -> None:
    attack: Any = ATTACKS.read(f"{written(tmp_path, 'signs', ATTACK)}:Signs:epsilon=8,reach=0.5")
    assert (attack.epsilon, attack.reach) == (8 / 255, 0.5)
    images = torch.rand(2, 3, 8, 9, generator=Generator().manual_seed(0))
    attacked = attack(lambda x: x.mean((1, 2, 3)), images, Generator())
    torch.testing.assert_close(attacked, (images + 4 / 255).clamp(0, 1))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nothing", "Thing = 3", "is no attack: it must be a frozen dataclass with a norm out of linf"),
        ("plain", "class Thing:\n    norm = 'linf'", "is no attack"),
        ("normless", ATTACK.replace('"linf"', '"sup"').replace("Signs", "Thing"), "norm out of linf, l2"),
        ("broken", "Thing = 1 / 0", "cannot be run: ZeroDivisionError"),
        ("other", "Other = 1", "has no attack 'Thing'"),
    ],
)
def test_what_is_no_attack_is_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        ATTACKS.read(f"{written(tmp_path, name, text)}:Thing")


FAIL = """
class Own(Exception):
    pass

def fail(*_, **__):
    raise Own("says no")
"""
ATTACK_FAILS = ATTACK.replace("        x =", "        raise Own('says no')\n        x =") + FAIL


class Own(Exception):
    """Of no kind that Python or torch has."""


class Failing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise Own("says no")


def evaluated(word: str) -> object:
    settings = EvaluationSettings(attacks=(word,), epsilons=EPSILONS, ranking="none", resamples=20)
    return evaluate([model("m")], [SCORED], settings=settings)


IMAGES = torch.rand(2, 3, 32, 40, generator=Generator().manual_seed(0))
# By what users write: what runs it, given the word for a function that fails and the folder that it lies in.
USES: dict[str, Callable[[str, Path, Any], object]] = {
    "module": lambda _, folder, __: ATTACKS.read(f"{written(folder, 'raises', FAIL + 'fail()')}:Thing"),
    "factory": lambda word, *_: build(word),
    "dataset": lambda word, *_: open_dataset(word),
    "network": lambda *_: trace(Failing(), IMAGES),
    "output": lambda *_: choose_output(Failing(), "mean", IMAGES),
    "criterion": lambda word, _, small: prune(trace(small.network, IMAGES), IMAGES, ratio=0.2, criterion=word),
    "loss": lambda word, _, small: harden(
        small, open_dataset("synthetic:scenes=6"), Recipe(loss=word, epochs=1, prune=0.0)
    ),
    "attack": lambda _, folder, __: evaluated(f"{written(folder, 'mine', ATTACK_FAILS)}:Signs"),
}


@pytest.mark.parametrize("kind", USES)
def test_exceptions_of_their_own_become_ours(kind: str, tmp_path: Path, make_model: Callable[..., Any]) -> None:
    word = f"{written(tmp_path, 'own', FAIL)}:fail"
    with pytest.raises(ArmorError, match="Own: "):
        USES[kind](word, tmp_path, make_model())


def test_a_purifier_of_few_lines_defends_a_model_also_in_a_chain(
    tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    word = f"{written(tmp_path, 'darken', PURIFIER)}:Darken"
    chain = read_chain(f"jpeg:quality=60+{word}:by=0.5+flip")
    assert list(chain) == ["jpeg:quality=60", f"{word}:by=0.5", "flip"]
    images = torch.rand(2, 3, 32, 40, generator=Generator().manual_seed(0)).requires_grad_()
    defended = Purified(make_model(), chain)
    (gradient,) = torch.autograd.grad(defended.attacked_scores(images).sum(), images)
    assert gradient.abs().sum() > 0
    assert torch.equal(read_purifier(word)(images, Generator()), 0.9 * images)


def test_a_purifier_that_changes_the_shape_is_refused_when_it_runs(
    tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    text = PURIFIER.replace("self.by * images", "images[..., ::2]")
    word = f"{written(tmp_path, 'halve', text)}:Darken"
    with pytest.raises(ArmorError, match="must keep the shape of images"):
        Purified(make_model(), read_chain(word))(torch.rand(1, 3, 32, 40))
    with pytest.raises(UsageError, match="is no purifier: it must have is_differentiable"):
        read_purifier(f"{written(tmp_path, 'three', 'Three = 3')}:Three")


def test_installed_attacks_are_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("strong", "iqa_armor.attacks.pgd:PGD", "iqa_armor.attacks")
    monkeypatch.setattr(registry, "_entry_points", lambda group: {"strong": point} if group == point.group else {})
    assert ATTACKS.read("strong:steps=30") == PGD(steps=30)
    with pytest.raises(UsageError, match="did you mean strong"):
        ATTACKS.read("stronk")


@dataclass(frozen=True)
class Blink:
    """An attack that exists as an object only."""

    norm = "linf"
    epsilon: float = 4 / 255
    direction: int = 1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator) -> Tensor:
        return (images + self.epsilon * self.direction * score_gradient(score, images).sign()).clamp(0, 1)


def test_objects_are_evaluated_like_words() -> None:
    settings = EvaluationSettings(attacks=(Blink(), "pgd1"), epsilons=(1 / 255,), resamples=20)
    attacks = evaluate([model("m")], [SCORED], settings=settings).outcome.models[0].attacks
    (own,) = (found for name, found in attacks.items() if name != "pgd1")
    assert own.abs_gain == attacks["pgd1"].abs_gain
