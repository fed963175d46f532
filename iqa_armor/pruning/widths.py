"""Decide which channels of coupled layers go."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from iqa_armor.pruning.coupling import ChannelGroup

# Multiple and lift as in `Rounding`. Processors work on channels by sixteens.
ROUNDINGS = (*((multiple, lift) for multiple in (16, 8, 4) for lift in (0.0, 0.25, 0.5)), (1, 0.5))
TOLERANCE = 0.015  # of the removed share, so 10 % may become 8.5 to 11.5 %
EXCESS = 0.16  # a layer may lose this share more than asked for: 64 → 48 channels, not 32 → 16
TRIES = 4
DEAD = 1e-6  # of the mean importance: such channels are worth nothing


@dataclass(frozen=True)
class Rounding:
    """How the widths that layers keep are rounded."""

    multiple: int
    lift: float  # share of the multiple that is added before rounding down: 0 rounds down, 1/2 to the nearest
    # Original widths that are rounded down to twice the multiple where that takes at most 3 % more of them.
    halved: frozenset[int] = frozenset()
    spares: bool = False  # whether a group with enough channels worth nothing loses those only

    def kept(self, width: int, wanted: float, parts: int = 1) -> int:
        """Return how many of `width` channels in equal parts stay when `wanted` should; at least one of each part."""
        unit = math.lcm(self.multiple, parts)
        even = math.floor(wanted / (2 * unit)) * 2 * unit
        if width in self.halved and wanted - even <= TOLERANCE * 2 * width:
            return even
        return min(math.floor(wanted / unit + self.lift) * unit, width) or width


@dataclass(frozen=True)
class Ranked:
    """A group of channels with the importance (width / parts,) of each place in its parts."""

    group: ChannelGroup
    importance: Tensor

    @cached_property
    def dead(self) -> int:
        """How many channels are worth nothing."""
        return int((self.importance <= DEAD * self.importance.mean()).sum()) * self.group.parts

    def removed(self, rounding: Rounding, wanted: float) -> list[int]:
        """Return the least important channels, so many that about `wanted` stay."""
        width, parts = self.group.width, self.group.parts
        kept = width if wanted == width else rounding.kept(width, wanted, parts)
        if rounding.spares and _is_enough(self.dead, width - wanted) and width - kept > self.dead:
            # Other images may wake up some that were silent on those looked at, so no more go than was asked for.
            kept = max(Rounding(1, 0.5).kept(width, wanted, parts), width - self.dead)
        places = self.importance.argsort()[: (width - kept) // parts]
        return sorted(int(place) + part * (width // parts) for place in places for part in range(parts))


def _is_enough(dead: int, aim: float) -> bool:
    return bool(dead) and aim < dead + 1


@dataclass(frozen=True)
class Decision:
    """What goes: channels by group, their share of all convolutions' channels, and the multiple of what stays."""

    removed: tuple[tuple[ChannelGroup, list[int]], ...]
    share: float
    multiple: int


def ranked(group: ChannelGroup, importance: Tensor) -> Ranked:
    """Return a group with an importance (width,) that is averaged over its parts."""
    parts = group.parts
    return Ranked(group, (importance.view(parts, -1).mean(dim=0) if parts > 1 else importance).cpu())


def decide(
    groups: Sequence[Ranked], *, channels: int, ratio: float, across_layers: bool, halved: Iterable[int]
) -> Decision:
    """Return which channels go, so that about a share of `ratio`, in [0, 1), of all convolutions' `channels` does.

    Widths become multiples of the largest of 16, 8, 4, 1 that keeps the removed share within 1.5 points of `ratio` and
    takes at most 16 points more of any layer; where most have enough channels that are worth nothing, those layers lose
    no others. Across layers the least important of all groups go, else as many of each; `halved` is as in `Rounding`.
    """

    def attempt(rounding: Rounding, wanted: list[float]) -> Decision:
        removed = tuple((each.group, each.removed(rounding, stay)) for each, stay in zip(groups, wanted, strict=True))
        share = sum(int(group.weights[gone].sum()) for group, gone in removed) / max(channels, 1)
        return Decision(tuple(pair for pair in removed if pair[1]), share, rounding.multiple)

    aims = [(each, ratio * each.group.width) for each in groups]
    spares = 2 * sum(aim for each, aim in aims if _is_enough(each.dead, aim)) > sum(aim for _, aim in aims)
    roundings = [Rounding(multiple, lift, frozenset(halved), spares) for multiple, lift in ROUNDINGS]
    wanted = _wanted_across(groups, ratio) if across_layers else _wanted_in_each(groups, ratio)
    aim = ratio
    # Layers that share channels count as one place, so where such are the least important too much goes across layers:
    # what is asked for is corrected by the quotient (ours).
    for _ in range(TRIES if across_layers else 0):
        share = attempt(roundings[-1], wanted).share
        if abs(share - ratio) <= TOLERANCE / 3:
            break
        aim = min(aim * min(ratio / max(share, 1e-9), 2.0), 0.95)
        wanted = _wanted_across(groups, aim)
    for rounding in roundings:
        decision = attempt(rounding, wanted)
        most = max((len(gone) / group.width for group, gone in decision.removed), default=0.0)
        if abs(decision.share - ratio) <= TOLERANCE and (across_layers or most <= ratio + EXCESS):
            break
    return decision


def _wanted_in_each(groups: Sequence[Ranked], ratio: float) -> list[float]:
    """Return how many channels of each group stay where a share goes; those of the same layers share out their dead."""
    makers = [{member.name for member in each.group.members if member.side == "gives"} for each in groups]
    wanted = []
    for each, own in zip(groups, makers, strict=True):
        kin = [other for other, its in zip(groups, makers, strict=True) if its == own]
        aim, dead = ratio * sum(other.group.width for other in kin), sum(other.dead for other in kin)
        gone = each.dead * aim / dead if _is_enough(dead, aim) else ratio * each.group.width
        wanted.append(each.group.width - gone)
    return wanted


def _wanted_across(groups: Sequence[Ranked], ratio: float) -> list[float]:
    """Return how many channels of each group stay where a share of the least important places of all groups goes."""
    if not groups:
        return []
    every = torch.cat([each.importance for each in groups])
    count = len(every) - int(len(every) * (1 - ratio))
    threshold = every.topk(count, largest=False).values[-1] if count else -math.inf
    gone = [int((each.importance <= threshold).sum()) * each.group.parts for each in groups]
    return [float(each.group.width - number) for each, number in zip(groups, gone, strict=True)]
