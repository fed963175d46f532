"""Several attacks at several budgets on one batch, sharing the gradients that coincide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, ScoreFn, project_linf
from iqa_armor.attacks.pgd import PGD

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


def at_budgets(attack: Attack, epsilons: Sequence[float]) -> tuple[Attack, ...]:
    """Return the attack at every L-infinity budget, in [0, 1] units; one in another norm keeps its own budget."""
    return tuple(at_epsilon(attack, epsilon) for epsilon in epsilons) if attack.norm == "linf" else (attack,)


def at_epsilon(attack: Attack, epsilon: float) -> Attack:
    """Return the attack with another budget, in [0, 1] units."""
    changed: Any = attack  # an Attack is a dataclass, which a Protocol cannot say
    return replace(changed, epsilon=epsilon)  # type: ignore[no-any-return]


def budget_key(attack: Attack) -> str:
    """Return the name of an attack's budget: pixel values in 1/255, other lengths as they are, or "own"."""
    if attack.norm == "none":
        return "own"
    return f"{attack.epsilon * 255:g}" if attack.norm in ("linf", "rmse") else f"{attack.epsilon:g}"


def run_sweep(
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
