"""Prove that a pruned network holds just the channels that stay, and computes what the original does with them."""

import copy
import operator
from contextlib import suppress
from typing import Any, Self, cast

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import NETWORK_FAILURES
from iqa_armor.graph.calls import plain_name, tensors_in, writes
from iqa_armor.graph.interpret import NodeFailure, call_node
from iqa_armor.pruning.channels.labelling import Labelling
from iqa_armor.pruning.channels.labels import Units, compressed, kept_labels, leaving, varying
from iqa_armor.pruning.channels.rules import FUNCTIONS
from iqa_armor.pruning.channels.zero import has_channels

SIZES = ("view", "reshape", "expand", "broadcast_to")
_MAKING = (torch.zeros, torch.ones, torch.linspace)  # in single precision, where no other is named


def broken_at(pruned: fx.GraphModule, traced: fx.GraphModule, labelling: Labelling, gone: Tensor) -> fx.Node | None:
    """Return the first node at which the pruned copy, labelled anew, does not hold just the channels that stay.

    Every value must have the labels of the original's, less what went. Sizes that a reshape is given, or computes from
    the width of another tensor, which may have changed where its own has not, are written into the copy as numbers.
    """
    again = Relabelling(pruned, labelling, gone).run()
    pruned.recompile()
    copies = {node.name: node for node in pruned.graph.nodes}
    for node in traced.graph.nodes:
        mate = copies[node.name]
        if mate not in again.labels or not _same(again.labels[mate], labelling.labels[node], gone):
            return cast(fx.Node, node)
    return None


class Relabelling(Labelling):
    """Labels of a pruned network with the names that the original's had; ends early where a call fails."""

    def __init__(self, pruned: fx.GraphModule, labelling: Labelling, gone: Tensor) -> None:
        super().__init__(pruned, labelling.example)
        self.units = Units(labelling.units)
        made = labelling.made_axis.items()
        self._made = {name: kept_labels(labelling.sites[name, axis], gone) for name, axis in made}
        self._stored = {name: kept_labels(labels, gone) for name, labels in labelling.whole.items()}
        self._before = {node.name: labels for node, labels in labelling.labels.items()}
        self._numbers = {node.name: number for node, number in labelling.numbers.items()}
        self._gone = gone

    def run(self) -> Self:
        with suppress(*NETWORK_FAILURES, NodeFailure):  # the node that fails has no labels, which says where
            super().run()
        return self

    def labels_of_stored(self, name: str, tensor: Tensor) -> Tensor:
        return self._stored[name] if name in self._stored else super().labels_of_stored(name, tensor)

    def labels_of_made(self, weight: str, count: int) -> Tensor:
        return self._made[weight][:count]

    def call(self, traced: nn.Module, node: fx.Node, *_: Any) -> Any:
        """Return what a node gives; numbers that it is given wrongly are mended in the graph."""
        if FUNCTIONS.get(plain_name(node)) == "elementwise" and tensors_in(fx.node.map_arg(node.args, self.values.get)):
            # A number of channels in arithmetic, such as a root to divide by, is that of the original.
            node.args = tuple(self._original(given) for given in node.args)
        labels = self._before.get(node.name)
        if plain_name(node) in SIZES and isinstance(labels, Tensor):
            is_packed = len(node.args) == 2 and isinstance(node.args[1], tuple | list)
            given: Any = node.args[1] if is_packed else node.args[1:]
            sizes = tuple(map(self._size, given, kept_labels(labels, self._gone).shape))
            node.args = (node.args[0], sizes) if is_packed else (node.args[0], *sizes)
        return call_node(traced, node, *self.real((node.args, node.kwargs)))

    def _original(self, given: Any) -> Any:
        number = self._numbers.get(given.name) if isinstance(given, fx.Node) else None
        return given if number is None or self.values[given] == number else number

    def _size(self, given: Any, wanted: int) -> Any:
        size = self.values[given] if isinstance(given, fx.Node) else given
        return wanted if isinstance(size, int) and size not in (-1, wanted) else given


def _same(found: Any, before: Any, gone: Tensor) -> bool:
    if isinstance(before, tuple | list):
        is_alike = isinstance(found, tuple | list) and len(found) == len(before)
        return is_alike and all(_same(one, other, gone) for one, other in zip(found, before, strict=True))
    if not isinstance(before, Tensor):
        return True
    expected = kept_labels(before, gone)
    if not isinstance(found, Tensor) or expected.shape != found.shape:
        return False
    return bool((compressed(expected) == compressed(found)).all())


class Masked(fx.Interpreter):
    """The original network with some channels set to zero wherever they are read."""

    def __init__(self, traced: fx.GraphModule, pruned: fx.GraphModule, labelling: Labelling, gone: Tensor) -> None:
        # What is not zero where a channel is, is computed anew from zeros when it is summed.
        super().__init__(traced, garbage_collect_values=not any(rest != 0 for rest in labelling.rest.values()))
        self.labelling, self.gone, self.pruned = labelling, gone, pruned
        self._mates = {node.name: node for node in pruned.graph.nodes}
        self._own = {node.name: node for node in labelling.traced.graph.nodes}

    def run_node(self, n: fx.Node) -> Any:
        """Return the value of a node; one that normalises over channels does so over those that stay."""
        labels = self.labelling.across.get(self._own[n.name])
        goes = None if labels is None else leaving(labels, self.gone)
        return super().run_node(n) if goes is None or not varying(goes) else self._normalized(n, goes)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        """Return a node's arguments, those that it sums over without the channels that are gone."""
        read, by_name = dict(self.env), {source.name: source for source in n.all_input_nodes}
        for original, labels in self.labelling.reads.get(self._own[n.name], ()):
            source, is_sum = by_name[original.name], self._own[n.name] in self.labelling.rescaled
            read[source] = self._of_zeros(source, {}) if is_sum else self._masked(read[source], labels)
        if not self.garbage_collect_values and writes(self.module, n):
            read.update({source: read[source].clone() for source in n.all_input_nodes if self._is_last(source)})
        return fx.node.map_arg((n.args, n.kwargs), read.__getitem__)

    def _is_last(self, source: fx.Node) -> bool:
        """Whether one node alone reads a tensor: what that writes goes into a copy, so that the tensor stays known."""
        value = self.env[source]
        others = (each for node, each in self.env.items() if node is not source and isinstance(each, Tensor))
        stored = value.untyped_storage().data_ptr() if isinstance(value, Tensor) and len(source.users) == 1 else None
        return stored is not None and all(each.untyped_storage().data_ptr() != stored for each in others)

    def _masked(self, value: Tensor, labels: Tensor) -> Tensor:
        return value.masked_fill(leaving(labels, self.gone).to(value.device), 0)

    def _of_zeros(self, node: fx.Node, found: dict[fx.Node, Any]) -> Any:
        """Return a node's value where channels that are gone are zero at their makers; `found` keeps such values."""
        known = self._own[node.name]
        if not has_channels(self.labelling, known):
            return self.env[node]
        if self.labelling.rest.get(known, 0.0) == 0:
            return self._masked(self.env[node], self.labelling.of(known))
        if node not in found:
            given = fx.node.map_arg((node.args, node.kwargs), lambda each: self._of_zeros(each, found))
            found[node] = call_node(self.module, node, *given)
        return found[node]

    def _normalized(self, node: fx.Node, goes: Tensor) -> Tensor:
        """Normalise over the channels that stay, as the pruned network does; the others become zero."""
        value, mate, (axis,) = self.env[node.all_input_nodes[0]], self._mates[node.name], varying(goes)
        staying = torch.nonzero(~goes.flatten()).flatten().to(value.device)
        smaller = value.index_select(axis, staying)
        known = {other: operator.attrgetter(str(other.target))(self.pruned) for other in mate.all_input_nodes[1:]}
        args, kwargs = fx.node.map_arg((mate.args, mate.kwargs), lambda other: known.get(other, smaller))
        return torch.zeros_like(value).index_copy(axis, staying, call_node(self.pruned, mate, args, kwargs))


def difference(
    traced: fx.GraphModule, pruned: fx.GraphModule, labelling: Labelling, gone: Tensor, images: Tensor
) -> float:
    """Return the largest difference between a pruned network's scores and the masked original's, in their spread.

    The copy is one before any correction, labels are the original's, `gone` says per label whether it went, images are
    normalised (N, 3, H, W), N at least 2. In double precision, unless a layer of the network's own casts to another.
    """

    def both(traced: fx.GraphModule, pruned: fx.GraphModule, images: Tensor) -> tuple[Tensor, Tensor]:
        # One by one, since labels are those of one image; the pruned network gets them together, as it will be used.
        masked = [Masked(traced, pruned, labelling, gone).run(image).flatten() for image in torch.split(images, 1)]
        return torch.cat(masked), pruned.forward(images).flatten()

    with torch.no_grad():
        spread = traced.forward(images).flatten().std(correction=0)
        try:
            masked, found = both(_in_double(traced), _in_double(pruned), images.double())
        except NETWORK_FAILURES:
            masked, found = both(traced, pruned, images)
    return float((masked - found).abs().max() / max(spread, 1e-6 * masked.abs().max(), torch.tensor(1e-12)))


def _in_double(traced: fx.GraphModule) -> fx.GraphModule:
    """Return a copy in double precision, whose own casts to single precision, and what it makes, are in double too."""
    exact = copy.deepcopy(traced).double()
    for node in exact.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate(
            (node.args, node.kwargs), lambda each: torch.float64 if each is torch.float32 else each
        )
        if node.target in _MAKING:
            node.kwargs = {"dtype": torch.float64, **node.kwargs}
        if node.op == "call_method" and node.target == "float":
            node.target = "double"
    exact.recompile()
    return exact
