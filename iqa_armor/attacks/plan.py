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

    PGDs that differ only in the number of steps share one trajectory per budget, and budgets share gradients while
    their images have the same bits; results equal those of each attack run alone, for a random score in a plan of its
    own. On the paper's plan (1 and 8 steps, five budgets) 20 gradients do the work of 45.

    Args:
        plan: Attacks by name, one per budget.
        score: Maps images (N, 3, H, W) in [0, 1] to scores (N,).
        images: Clean images (N, 3, H, W) in [0, 1].
        generator: Returns the source of randomness of a purpose, and reseeds a score that draws; called before every
            attack, and before every gradient of PGDs.

    Source: [RA] Meleshin et al., arXiv:2506.04951, Section 4; the sharing is (ours).
    """
    families: dict[tuple[PGD, tuple[float, ...]], dict[int, str]] = {}
    for name, attacks in plan.items():
        pgds = [attack for attack in attacks if type(attack) is PGD]
        if pgds and len({replace(pgd, epsilon=0.0) for pgd in pgds}) == 1 and len(pgds) == len(attacks):
            kind = replace(pgds[0], epsilon=0.0, steps=1)
            family = families.setdefault((kind, tuple(pgd.epsilon for pgd in pgds)), {})
            if pgds[0].steps not in family:
                family[pgds[0].steps] = name
                continue
        source = generator(name)
        for attack in attacks:
            yield Attacked(name, (attack,), attack(score, images, source))
    for (pgd, epsilons), names in families.items():
        yield from _run_family(pgd, names, score, images.detach(), epsilons=epsilons, generator=generator)


def _run_family(
    pgd: PGD,
    names: Mapping[int, str],
    score: ScoreFn,
    images: Tensor,
    *,
    epsilons: tuple[float, ...],
    generator: Callable[[str], Generator],
) -> Iterator[Attacked]:
    groups = [(epsilons, images)]
    for step in range(1, max(names) + 1):
        following: list[tuple[tuple[float, ...], Tensor]] = []
        for members, current in groups:
            # So a random score draws alike whichever steps, budgets and other attacks are run.
            generator(f"PGD {pgd.step_size:g} {pgd.direction:+d}, gradient {step}")
            following += _split(members, pgd.ascend(score, current), images)
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
