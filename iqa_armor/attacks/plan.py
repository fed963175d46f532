"""Several attacks at several budgets on one batch, sharing the gradients that coincide."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, ScoreFn
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.scores import project_linf
from iqa_armor.errors import ArmorError, calling

Plan = Mapping[str, Sequence[Attack]]  # the attacks of every name, one per budget
_Group = tuple[tuple[float, ...], Tensor]  # budgets, and the images that all of them have


@dataclass(frozen=True)
class Attacked:
    """Images (N, 3, H, W) in [0, 1] of the attack of a name, at the budgets that gave the same bits."""

    attack: str
    budgets: tuple[Attack, ...]
    images: Tensor


def run_plan(
    plan: Plan, score: ScoreFn, images: Tensor, *, generator: Callable[[str], Generator]
) -> Iterator[Attacked]:
    """Run every attack at every budget; each (name, budget) is yielded once, in no promised order.

    PGDs that differ only in the number of steps share one trajectory per budget, and budgets share gradients while
    their images have the same bits; results equal those of each attack run alone. On the paper's sweep (1 and 8 steps,
    five budgets) 20 gradients do the work of 45.

    `generator` returns the randomness of the attacks of a name, and is asked before every step of shared trajectories
    too: a random score must start anew whenever it is, so that no result depends on which other attacks there are.

    Source: [RA] Meleshin et al., arXiv:2506.04951, Section 4; the sharing is (ours).
    """
    families: dict[tuple[PGD, tuple[float, ...]], dict[int, list[str]]] = {}
    for name, attacks in plan.items():
        if all(type(attack) is PGD for attack in attacks):
            for kind, shared in _kinds(attacks).items():
                family = families.setdefault((replace(kind, steps=1), tuple(shared)), {})
                family.setdefault(kind.steps, []).append(name)
            continue
        source = generator(name)
        for attack in attacks:
            # A copy, which it may change: what it gives is compared with the images as they were.
            with calling(f"attack {name}"):
                made: object = attack(score, images.detach().clone(), source)
            if not isinstance(made, Tensor):
                raise ArmorError(f"attack {name} gives {type(made).__name__} in place of images")
            yield Attacked(name, (attack,), made.detach())
    for (pgd, epsilons), names in families.items():
        yield from _family(pgd, names, [(epsilons, images.detach())], score=score, begin=generator)


def _kinds(attacks: Sequence[Any]) -> dict[PGD, list[float]]:
    """Return the budgets of PGDs by what they are without them."""
    kinds: dict[PGD, list[float]] = {}
    for attack in attacks:
        kinds.setdefault(replace(attack, epsilon=0.0), []).append(attack.epsilon)
    return kinds


def _family(
    pgd: PGD, names: dict[int, list[str]], groups: list[_Group], *, score: ScoreFn, begin: Callable[[str], object]
) -> Iterator[Attacked]:
    """Yield the images of PGDs that share a trajectory, by their numbers of steps; the one group is of clean images."""
    ((_, clean),) = groups
    for step in range(1, max(names) + 1):
        following: list[_Group] = []
        for epsilons, current in groups:
            begin(f"pgd step {step}")
            following += _split(epsilons, pgd.ascend(score, current), clean)
        groups = following
        for name, (members, attacked) in product(names.get(step, ()), groups):
            yield Attacked(name, tuple(replace(pgd, steps=step, epsilon=e) for e in members), attacked)


def _split(epsilons: Sequence[float], moved: Tensor, images: Tensor) -> list[_Group]:
    """Return the groups of budgets whose images are equal to the last bit."""
    groups: list[_Group] = []
    for epsilon in epsilons:
        attacked = project_linf(moved, images, epsilon).clamp(0, 1)
        twin = next((i for i, (_, other) in enumerate(groups) if torch.equal(other, attacked)), None)
        if twin is None:
            groups.append(((epsilon,), attacked))
        else:
            groups[twin] = ((*groups[twin][0], epsilon), attacked)
    return groups
