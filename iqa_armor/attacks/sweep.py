"""Several attacks at several budgets on one batch, sharing the gradients that coincide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, ScoreFn, project_linf
from iqa_armor.attacks.pgd import PGD


@dataclass(frozen=True)
class Attacked:
    """Images of one attack at the budgets that gave the same bits.

    Args:
        attack: Name of the attack.
        epsilons: Budgets these images belong to, in [0, 1] units.
        images: Attacked images (N, 3, H, W) in [0, 1].
    """

    attack: str
    epsilons: tuple[float, ...]
    images: Tensor


def run_sweep(
    attacks: Mapping[str, Attack],
    score: ScoreFn,
    images: Tensor,
    *,
    epsilons: Sequence[float],
    generator: Generator,
) -> Iterator[Attacked]:
    """Run every attack at every budget; each (name, budget) is yielded once, in no promised order.

    PGDs that differ only in the number of steps share one trajectory per budget, and budgets share
    gradients while their images have the same bits; results equal those of each attack run alone.
    On the paper's sweep (1 and 8 steps, five budgets) 20 gradients do the work of 45.

    Args:
        attacks: Attacks by name; their own budget is replaced.
        score: Maps images (N, 3, H, W) in [0, 1] to scores (N,).
        images: Clean images (N, 3, H, W) in [0, 1].
        epsilons: Budgets in [0, 1] units, all different.
        generator: Source of randomness for attacks that draw.

    Source: [RA] Meleshin et al., arXiv:2506.04951, Section 4; the sharing is (ours).
    """
    families: dict[PGD, dict[int, str]] = {}
    for name, attack in attacks.items():
        if isinstance(attack, PGD):
            family = families.setdefault(replace(attack, steps=1, epsilon=0.0), {})
            if attack.steps not in family:
                family[attack.steps] = name
                continue
        for epsilon in epsilons:
            yield Attacked(name, (epsilon,), at_epsilon(attack, epsilon)(score, images, generator))
    for pgd, names in families.items():
        yield from _sweep_pgd(pgd, names, score, images=images.detach(), epsilons=epsilons)


def at_epsilon(attack: Attack, epsilon: float) -> Attack:
    """Return the attack with another budget, in [0, 1] units."""
    changed: Any = attack  # an Attack is a dataclass, which a Protocol cannot say
    return replace(changed, epsilon=epsilon)  # type: ignore[no-any-return]


def _sweep_pgd(
    pgd: PGD, names: Mapping[int, str], score: ScoreFn, *, images: Tensor, epsilons: Sequence[float]
) -> Iterator[Attacked]:
    groups = [(tuple(epsilons), images)]
    for step in range(1, max(names) + 1):
        following: list[tuple[tuple[float, ...], Tensor]] = []
        for members, current in groups:
            moved = pgd.ascend(score, current)
            following += _split(members, moved, images)
        groups = following
        if step in names:
            yield from (Attacked(names[step], members, attacked) for members, attacked in groups)


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
