"""Which channels of a network stand and fall together, and what is left when some go."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.walk import ancestors, descendants
from iqa_armor.pruning.channels.cut import cut
from iqa_armor.pruning.channels.labelling import Labelling
from iqa_armor.pruning.channels.proof import broken_at

SECONDS = 60.0
FEW = 8  # times as many channels as go together are few to choose among
TRIAL = 4  # one channel in so many is taken out to see whether that can be done at all


@dataclass(frozen=True)
class Member:
    """One side of a layer whose channels go with others."""

    layer: Any  # or a parameter that a function works with
    name: str  # of the layer in the network, "" for a parameter
    side: Literal["gives", "reads"]  # norms and depthwise filters give their channels
    places: list[int]  # of its channels
    roots: Tensor  # the channel of the group that each of them goes with


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of coupled layers, each of which goes from all of them or from none."""

    members: tuple[Member, ...]
    units: Tensor  # what the labels call the places of a part (width / parts,)
    parts: int  # number of equal parts that must lose the same places, as a grouped convolution's do

    @property
    def width(self) -> int:
        return len(self.units) * self.parts

    @cached_property
    def weights(self) -> Tensor:
        """How many channels of convolutions (width,) go with each channel."""
        counts = torch.zeros(self.width, dtype=torch.long)
        for member in self.members:
            if member.side == "gives" and isinstance(member.layer, nn.modules.conv._ConvNd):
                counts += torch.bincount(member.roots, minlength=self.width)
        return counts


@dataclass(frozen=True)
class Cut:
    """A pruned copy."""

    network: fx.GraphModule
    kept: dict[str, list[int]]  # by layer that lost output channels, the indices of those that it keeps
    widths: dict[str, int]  # by the same layers, their numbers of channels before
    gone: Tensor  # per label, whether what it names went


class Coupling:
    """The channels that a traced network, labelled on an example (1, 3, H, W), may lose without being broken."""

    def __init__(self, network: fx.GraphModule, example: Tensor) -> None:
        self.network = network
        self._deadline = time.monotonic() + SECONDS
        self.labelling = Labelling(network, example).run()
        units, roots = self.labelling.units, self.labelling.units.roots()
        made = torch.zeros(len(roots), dtype=torch.bool)
        made[roots[units.made]] = True
        # What belongs to no layer's output stays, such as a position table nothing was added to.
        units.fix(torch.nonzero(~made[roots]).flatten())
        self._owners = {  # of each stored tensor, the first layer that has it
            f"{path}.{name}": (path, layer)
            for path, layer in network.named_modules()
            for name, _ in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
            if path and not isinstance(layer, fx.GraphModule)
        }
        # Channels at which a trial breaks the network stay; it goes on until it does not.
        while self._without(unit for group in self.groups for unit in group.units[_some(len(group.units))]) is None:
            pass

    @property
    def groups(self) -> list[ChannelGroup]:
        """The channels that may go; those of a group stand equally often in the same layers, so none loses all."""
        roots = self.labelling.units.roots()
        sites = {key: roots[labels] for key, labels in self.labelling.sites.items()}
        names = _alike(sites.values(), int(roots.max()) + 1)
        present = {key: torch.unique(names[labels[labels > 0]]).tolist() for key, labels in sites.items()}
        makers = [key for key in self.labelling.made_axis.items() if key[0] not in self.labelling.heads]
        made = dict.fromkeys(name for key in makers for name in present[key])
        standing: dict[int, dict[tuple[str, int], Tensor]] = {}  # by name of a set, where it stands
        for key, labels in sites.items():
            for name in present[key]:
                standing.setdefault(name, {})[key] = labels
        return [self._group(torch.nonzero(names == name).flatten(), standing[name]) for name in made]

    @property
    def reasons(self) -> dict[str, str]:
        """Why channels stay, by the node that lets them, else by the layer that makes them."""
        told = {node: why for node, why in self.labelling.reasons.items() if node.op != "output"}
        roots = self.labelling.units.roots()
        for node in self.network.graph.nodes:
            weight = f"{node.target}.weight"
            if weight not in self.labelling.made_axis or weight in self.labelling.heads:
                continue
            made = roots[self.labelling.sites[weight, self.labelling.made_axis[weight]]]
            own, together = torch.unique(made, return_counts=True)
            least = int(together.min())
            if FEW * least > len(made) and not told.keys() & descendants(node):
                told[node] = f"its channels go {least} at a time" if own.any() else "others that stay hold its channels"
        return {node.name: why for node, why in told.items()}

    def cut(self, removed: Iterable[tuple[ChannelGroup, list[int]]]) -> Cut | None:
        """Return a copy of the network without some channels of groups, or None if that would break it.

        The groups are without the channels that did it then. Raises SurgeryError if it would break for another reason.
        """
        found = self._without(group.units[channel % len(group.units)] for group, gone in removed for channel in gone)
        if found is None:
            return None
        pruned, gone = found
        made = {
            self._owners[name][0]: gone[labels]
            for (name, axis), labels in self.labelling.sites.items()
            if name in self._owners and axis == self.labelling.made_axis.get(name, 0) and bool(gone[labels].any())
        }
        kept = {name: torch.nonzero(~leaves).flatten().tolist() for name, leaves in made.items()}
        return Cut(pruned, kept, {name: len(leaves) for name, leaves in made.items()}, gone)

    def _without(self, units: Iterable[Tensor]) -> tuple[fx.GraphModule, Tensor] | None:
        """Return a copy without some units, and per label whether it went; None if it is broken: what did it stays."""
        roots = self.labelling.units.roots()
        marked = torch.zeros(len(roots), dtype=torch.bool)
        marked[torch.tensor([int(unit) for unit in units], dtype=torch.long)] = True
        marked[0] = False
        pruned, gone = cut(self.network, self.labelling, marked[roots]), marked[roots]
        node = broken_at(pruned, self.network, self.labelling, gone)
        is_late = time.monotonic() > self._deadline  # then what cannot be followed is given up in larger pieces
        if node is not None and not self._keep(node, far=is_late) and not self._keep(node, far=True):
            raise SurgeryError(f"channels cannot be followed past {node.name!r}; keep the network's width by --prune 0")
        return (pruned, gone) if node is None else None

    def _keep(self, node: fx.Node, *, far: bool) -> bool:
        """Let the channels stay that a node reads, if `far` also their sources; say whether any could go before."""
        units, labels = self.labelling.units, self.labelling.labels
        before = units.roots()
        for source in ancestors(node, stops=lambda each: not far and isinstance(labels.get(each), Tensor)):
            self.labelling.fix(self.labelling.of(source))
        self.labelling.reasons.setdefault(node, "what it does to channels depends on their number")
        return not torch.equal(before, units.roots())

    def _group(self, units: Tensor, sites: dict[tuple[str, int], Tensor]) -> ChannelGroup:
        units = units[units > 0]
        number = torch.full((int(self.labelling.units.roots().max()) + 1,), -1)
        number[units] = torch.arange(len(units))
        number[0] = -1
        found = [(name, axis, number[labels]) for (name, axis), labels in sites.items()]
        found = [(name, axis, numbers) for name, axis, numbers in found if bool((numbers >= 0).any())]
        makers = [numbers for name, axis, numbers in found if axis == self.labelling.made_axis.get(name)]
        parts = max(1, max(int((numbers >= 0).sum()) for numbers in makers) // len(units))
        return ChannelGroup(tuple(self._members(found, len(units), parts)), units, parts)

    def _members(self, found: list[tuple[str, int, Tensor]], count: int, parts: int) -> Iterator[Member]:
        seen: set[tuple[str, bool]] = set()
        for name, axis, numbers in found:
            path, layer = self._owners.get(name, ("", self.labelling.stored(name)))
            gives = axis == self.labelling.made_axis.get(name, 0)
            if path and (path, gives) in seen:
                continue  # a bias beside its weight, statistics beside a scale
            seen.add((path, gives))
            if not gives and getattr(layer, "groups", 1) > 1 and not getattr(layer, "transposed", False):
                numbers = numbers.repeat(layer.groups)  # its weight names the places of one part only
            places = torch.nonzero(numbers >= 0).flatten()
            roots = numbers[places] + count * (_occurrence(numbers[places]) % parts)
            yield Member(layer, path, "gives" if gives else "reads", places.tolist(), roots)


def _some(count: int) -> Tensor:
    """Return a part of so many places, in no regular order that a shift would not notice."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    return order[: max(1, count // TRIAL)] if count > 1 else order[:0]


def _occurrence(numbers: Tensor) -> Tensor:
    """Return how often each number has come before."""
    order = numbers.argsort(stable=True)
    ordered = numbers[order]
    first = torch.searchsorted(ordered, ordered)
    return torch.empty_like(numbers).scatter_(0, order, torch.arange(len(numbers)) - first)


def _alike(sites: Iterable[Tensor], count: int) -> Tensor:
    """Return, per unit (count,), the name of the set of units that stand equally often along the same axes."""
    names = torch.zeros(count, dtype=torch.long)
    for labels in sites:
        often = torch.bincount(labels, minlength=count)
        names = torch.unique(names * (len(labels) + 1) + often, return_inverse=True)[1]
    return names
