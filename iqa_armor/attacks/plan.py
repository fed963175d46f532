"""Several attacks at several budgets on one batch, sharing the gradients that coincide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, ScoreFn
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.projection import project_linf

Plan = Mapping[str, Sequence[Attack]]  # the attacks of every name, one per budget


@dataclass(frozen=True)
class Attacked:
    """Images of one attack at the budgets that gave the same bits.

    Args:
        attack: Name of the attack.
        budgets: The attack at each budget these images belong to.
        images: Attacked images (N, 3, H, W) in [0, 1].
    """

    attack: str
    budgets: tuple[Attack, ...]
    images: Tensor


def run_plan(
    plan: Plan, score: ScoreFn, images: Tensor, *, generator: Callable[[str], Generator]
) -> Iterator[Attacked]:
    """Run every attack at every budget; each (name, budget) is yielded once, in no promised order.

    PGDs that differ only in the number of steps share one trajectory per budget, and budgets share
    gradients while their images have the same bits; results equal those of each attack run alone.
    On the paper's sweep (1 and 8 steps, five budgets) 20 gradients do the work of 45.

    Args:
        plan: Attacks by name, one per budget.
        score: Maps images (N, 3, H, W) in [0, 1] to scores (N,).
        images: Clean images (N, 3, H, W) in [0, 1].
        generator: Returns the source of randomness of the attacks of a name.

    Source: [RA] Meleshin et al., arXiv:2506.04951, Section 4; the sharing is (ours).
    """
    families: dict[tuple[PGD, tuple[float, ...]], dict[int, str]] = {}
    for name, attacks in plan.items():
        pgds = [attack for attack in attacks if isinstance(attack, PGD)]
        if pgds and len(pgds) == len(attacks):
            steps, kind = pgds[0].steps, replace(pgds[0], epsilon=0.0)
            alike = all(replace(pgd, epsilon=0.0) == kind for pgd in pgds)
            family = families.setdefault((replace(kind, steps=1), tuple(pgd.epsilon for pgd in pgds)), {})
            if alike and steps not in family:
                family[steps] = name
                continue
        source = generator(name)
        for attack in attacks:
            yield Attacked(name, (attack,), attack(score, images, source))
    for (pgd, epsilons), names in families.items():
        yield from _sweep_pgd(pgd, names, score, images=images.detach(), epsilons=epsilons)


def _sweep_pgd(
    pgd: PGD, names: Mapping[int, str], score: ScoreFn, *, images: Tensor, epsilons: Sequence[float]
) -> Iterator[Attacked]:
    groups = [(tuple(epsilons), images)]
    for step in range(1, max(names, default=0) + 1):
        following: list[tuple[tuple[float, ...], Tensor]] = []
        for members, current in groups:
            moved = pgd.ascend(score, current)
            following += _split(members, moved, images)
        groups = following
        if step in names:
            whole = replace(pgd, steps=step)
            for members, attacked in groups:
                yield Attacked(names[step], tuple(replace(whole, epsilon=e) for e in members), attacked)


def _split(epsilons: Sequence[float], moved: Tensor, images: Tensor) -> list[tuple[tuple[float, ...], Tensor]]:
    """Project per budget and group the budgets whose images are equal to the last bit."""
    groups: list[tuple[tuple[float, ...], Tensor]] = []
    for epsilon in epsilons:
        attacked = project_linf(moved, images, epsilon).clamp(0, 1)
        twin = next((i for i, (_, other) in enumerate(groups) if torch.equal(other, attacked)), None)
        if twin is None:
            groups.append(((epsilon,), attacked))
        else:
            groups[twin] = ((*groups[twin][0], epsilon), groups[twin][1])
    return groups
