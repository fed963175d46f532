import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Generator, Tensor, linalg, nn
from white_subjects import tiny

from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.base import Attack, Direction, Norm, ScoreFn, frozen
from iqa_armor.attacks.budgets import at_budgets, budget_key
from iqa_armor.attacks.pgd import L2PGD, MADC, PGD
from iqa_armor.attacks.plan import Attacked, run_plan
from iqa_armor.attacks.scores import project_linf
from iqa_armor.attacks.transforms import AdvCF, StAdv
from iqa_armor.errors import UsageError
from iqa_armor.evaluation.run import check_budget

EPSILONS = tuple(e / 255 for e in (2, 4, 6, 8, 10))
BOTH: tuple[Direction, ...] = (1, -1)


@pytest.fixture
def images() -> Tensor:
    drawn = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn[0, :, :4], drawn[0, :, 4:8] = 0, 1  # pixels at both ends of the range
    return drawn


def sweep(
    attacks: Mapping[str, Attack], score: ScoreFn, images: Tensor, *, epsilons: Sequence[float] = EPSILONS
) -> Iterator[Attacked]:
    plan = {name: at_budgets(attack, epsilons) for name, attack in attacks.items()}
    return run_plan(plan, score, images, generator=lambda _: Generator().manual_seed(7))


class Counted:
    """A score function that counts its evaluations with a gradient."""

    def __init__(self, score: ScoreFn) -> None:
        self.score, self.gradients = score, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.gradients += int(images.requires_grad)
        return self.score(images)


# All but the one that turns a set's ranking round, which moves scores both ways (test_attacks_set.py).
ONE_WAY = {name: attack for name, attack in ATTACKS.items() if name != "sma"}


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("attack", ONE_WAY.values(), ids=ONE_WAY)
@pytest.mark.parametrize("name", ["smooth", "relu", "normed"])
def test_attack_stays_in_budget_and_beats_noise(
    name: str, attack: Attack, direction: Direction, images: Tensor
) -> None:
    model, generator, before = tiny(name), Generator().manual_seed(1), images.clone()
    (attack,) = at_budgets(attack, [4 / 255])
    attacked = replace(attack, direction=direction)(model, images, generator)  # type: ignore[type-var]
    check_budget("it", attack, clean=images, attacked=attacked)
    noise = torch.randint(0, 2, images.shape, generator=generator).mul(2.0).sub(1)
    if attack.norm == "linf":
        size = (attacked - images).abs().amax()
    else:
        size = linalg.vector_norm(attacked - images, dim=(1, 2, 3), keepdim=True) / images[0].numel() ** 0.5
    noisy = (images + noise * size).clamp(0, 1)
    with torch.no_grad():
        moved = direction * (model(attacked) - model(images))
        by_noise = direction * (model(noisy) - model(images))
    assert (moved > 0).all()
    assert (moved > by_noise).all()
    assert not attacked.requires_grad
    assert torch.equal(images, before)


def test_more_steps_and_larger_budgets_raise_more(images: Tensor) -> None:
    model, generator = tiny("smooth"), Generator()

    def gain(steps: int, epsilon: float) -> float:
        attacked = PGD(epsilon=epsilon, steps=steps)(model, images, generator)
        with torch.no_grad():
            return float((model(attacked) - model(images)).mean())

    assert gain(1, 8 / 255) < gain(4, 8 / 255) < gain(8, 8 / 255)
    assert gain(8, 2 / 255) < gain(8, 4 / 255) < gain(8, 8 / 255)


@pytest.mark.parametrize("name", ["smooth", "relu", "normed"])
@pytest.mark.parametrize("direction", BOTH)
def test_sweep_equals_each_attack_alone_to_the_bit(name: str, direction: Direction, images: Tensor) -> None:
    model, generator = tiny(name), Generator()
    attacks = {"pgd1": PGD(steps=1, direction=direction), "pgd8": PGD(steps=8, direction=direction)}
    shared, alone = Counted(model), Counted(model)
    seen = set()
    for run in sweep(attacks, shared, images):
        for budget in run.budgets:
            seen.add((run.attack, budget.epsilon))
            assert budget == replace(attacks[run.attack], epsilon=budget.epsilon)
            assert torch.equal(run.images, budget(alone, images, generator))
    assert seen == {(attack, epsilon) for attack in attacks for epsilon in EPSILONS}
    assert alone.gradients == 45
    assert shared.gradients <= 20  # fewer where projecting changes no bit yet


def test_sweep_needs_twenty_gradients_where_budgets_part_as_soon_as_they_can(images: Tensor) -> None:
    attacks = {"pgd1": PGD(steps=1, step_size=1.0001 / 255), "pgd8": PGD(steps=8, step_size=1.0001 / 255)}
    shared = Counted(tiny("smooth"))
    list(sweep(attacks, shared, images))
    assert shared.gradients == 8 + 6 + 4 + 2


def test_sweep_takes_any_budgets_steps_and_step_sizes(images: Tensor) -> None:
    model, generator = tiny("smooth"), Generator()
    attacks = {
        "a": PGD(steps=3),
        "b": PGD(steps=5),
        "same": PGD(steps=5),
        "large": PGD(steps=2, step_size=3 / 255),
        "down": PGD(steps=2, direction=-1),
    }
    epsilons = (0.5 / 255, 3 / 255)
    runs = list(sweep(attacks, model, images, epsilons=epsilons))
    got = {(run.attack, budget.epsilon): run.images for run in runs for budget in run.budgets}
    assert len(got) == len(attacks) * len(epsilons)
    for (name, epsilon), attacked in got.items():
        assert torch.equal(attacked, replace(attacks[name], epsilon=epsilon)(model, images, generator))


@dataclass(frozen=True)
class Noise:
    """An attack that is no PGD and draws."""

    norm: ClassVar[Norm] = "linf"

    epsilon: float = 4 / 255
    direction: Direction = 1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator) -> Tensor:
        noise = torch.rand(images.shape, generator=generator) * 2 - 1
        return project_linf(images + self.epsilon * noise, images, self.epsilon).clamp(0, 1)


def test_sweep_runs_attacks_that_share_nothing(images: Tensor) -> None:
    def run() -> list[tuple[tuple[Attack, ...], Tensor]]:
        return [(item.budgets, item.images) for item in sweep({"noise": Noise()}, tiny("smooth"), images)]

    first, second = run(), run()
    assert [budgets for budgets, _ in first] == [(Noise(epsilon),) for epsilon in EPSILONS]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))


def test_sweep_runs_attacks_in_other_norms_once(images: Tensor) -> None:
    attacks: dict[str, Attack] = {"l2": L2PGD(epsilon=0.5), "pgd": PGD(steps=2)}
    runs = list(sweep(attacks, tiny("smooth"), images))
    assert [(run.attack, run.budgets) for run in runs if run.attack == "l2"] == [("l2", (L2PGD(epsilon=0.5),))]
    assert sum(len(run.budgets) for run in runs if run.attack == "pgd") == len(EPSILONS)


def test_sweep_runs_the_same_pgd_at_other_budgets_by_itself(images: Tensor) -> None:
    model, plan = tiny("smooth"), {"a": (PGD(steps=2), PGD(steps=3)), "b": (PGD(steps=2, epsilon=0.01),)}
    runs = [
        (run.attack, budget, run.images)
        for run in run_plan(plan, model, images, generator=lambda _: Generator())
        for budget in run.budgets
    ]
    assert {(name, budget) for name, budget, _ in runs} == {(name, each) for name in plan for each in plan[name]}
    assert all(torch.equal(attacked, budget(model, images, Generator())) for _, budget, attacked in runs)


def test_random_scores_draw_alike_whatever_else_is_run(images: Tensor) -> None:
    model, noise = tiny("smooth"), Generator()

    def score(batch: Tensor) -> Tensor:
        return model(batch + 0.2 * torch.randn(batch.shape, generator=noise))

    def run(attacks: dict[str, Attack], epsilons: Sequence[float]) -> dict[tuple[str, float], Tensor]:
        plan = {name: at_budgets(attack, epsilons) for name, attack in attacks.items()}
        found = {}
        for item in run_plan(plan, score, images, generator=lambda purpose: noise.manual_seed(sum(purpose.encode()))):
            noise.manual_seed(9)  # as if the images were scored in between
            found.update({(item.attack, budget.epsilon): item.images for budget in item.budgets})
        return found

    alone = run({"pgd3": PGD(steps=3)}, EPSILONS[2:3])
    beside = run({"down": PGD(steps=2, direction=-1), "pgd1": PGD(steps=1), "pgd3": PGD(steps=3)}, EPSILONS)
    assert torch.equal(alone["pgd3", EPSILONS[2]], beside["pgd3", EPSILONS[2]])
    assert torch.equal(run({"pgd1": PGD(steps=1)}, EPSILONS[:1])["pgd1", EPSILONS[0]], beside["pgd1", EPSILONS[0]])


@pytest.mark.parametrize(
    ("attack", "key"),
    [(PGD(epsilon=0.5 / 255), "0.5"), (L2PGD(epsilon=1.5), "1.5"), (MADC(), "10"), (StAdv(), "1"), (AdvCF(), "own")],
)
def test_budgets_are_named_in_their_own_units(attack: Attack, key: str) -> None:
    assert budget_key(attack) == key


def test_frozen_restores_every_flag_even_after_an_error() -> None:
    model = tiny("normed")
    model.train()
    batch_norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    batch_norm.eval()
    first = next(model.parameters())
    first.requires_grad_(False)

    def state() -> list[bool]:
        return [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]

    before = state()
    inside: list[bool] = []
    with contextlib.suppress(KeyError), frozen(model):
        inside = state()
        raise KeyError
    assert inside
    assert not any(inside)
    assert state() == before


def test_frozen_leaves_no_parameter_gradients(images: Tensor) -> None:
    model = tiny("relu")
    with frozen(model):
        PGD(steps=2)(model, images, Generator())
    assert all(parameter.grad is None for parameter in model.parameters())


def words() -> Iterator[tuple[str, PGD]]:
    yield "pgd1", PGD(steps=1)
    yield "pgd50", PGD(steps=50)
    yield "pgd:steps=20", PGD(steps=20)
    yield "pgd8:step_size=0.5,epsilon=2", PGD(steps=8, step_size=0.5 / 255, epsilon=2 / 255)


@pytest.mark.parametrize(("text", "attack"), list(words()))
def test_words_name_attacks(text: str, attack: PGD) -> None:
    assert ATTACKS.read(text) == attack


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("pdg8", "unknown attack 'pdg8'; did you mean pgd8"),
        ("pgd0", "unknown attack"),
        ("pgd:step=3", "unknown attack setting 'step'; known are epsilon"),
        ("pgd:steps=many", "steps must be int"),
        ("pgd:steps=0", r"needs steps in \[1, inf\), got 0"),
        ("pgd:epsilon=-1", r"epsilon in \[0, inf\), got -"),
        ("pgd:epsilon=nan", "got nan"),
    ],
)
def test_words_that_name_nothing_are_refused(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        ATTACKS.read(text)
