"""Label a pruned network anew, and find where it does not hold just the channels that stay."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, fx

from iqa_armor.errors import NETWORK_FAILURES
from iqa_armor.pruning.channels.kinds import FUNCTIONS, name_of
from iqa_armor.pruning.channels.labelling import Labelling
from iqa_armor.pruning.channels.labels import Units, compressed, has_tensor, kept_labels
from iqa_armor.pruning.channels.rewrite import SIZES


def broken_at(pruned: fx.GraphModule, traced: fx.GraphModule, labelling: Labelling, gone: Tensor) -> fx.Node | None:
    """Return the first node of the original at which the pruned copy does not hold just the channels that stay.

    The pruned copy is labelled anew, its weights with the labels that they kept, and every value must have the labels
    of the original's, less what went. Sizes that a reshape computes from the width of another tensor, which may have
    changed where its own has not, are written into the copy as numbers.
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
        self._made = {
            name: kept_labels(labelling.sites[name, axis], gone) for name, axis in labelling.made_axis.items()
        }
        self._stored = {name: kept_labels(labels, gone) for name, labels in labelling.whole.items()}
        self._before = {node.name: labels for node, labels in labelling.labels.items()}
        self._numbers = {n.name: v for n, v in labelling.shapes.items() if isinstance(v, int | float)}
        self._gone = gone

    def run(self) -> Relabelling:
        """Label nodes in order up to the first that fails."""
        with suppress(*NETWORK_FAILURES):  # the node that fails has no labels, which says where
            super().run()
        return self

    def labels_of_stored(self, name: str, tensor: Tensor) -> Tensor:
        """Return the labels that a stored tensor kept."""
        return self._stored[name] if name in self._stored else super().labels_of_stored(name, tensor)

    def labels_of_made(self, weight: str, count: int) -> Tensor:
        """Return the labels that what a weight makes kept."""
        return self._made[weight][:count]

    def value(self, node: fx.Node) -> Any:
        """Return what a node gives; numbers that it is given wrongly are mended in the graph."""
        if FUNCTIONS.get(name_of(node)) == "elementwise" and has_tensor(fx.node.map_arg(node.args, self.values.get)):
            # A number of channels in arithmetic, such as a root to divide by, is that of the original.
            node.args = tuple(self._original(given) for given in node.args)
        labels = self._before.get(node.name)
        if name_of(node) in SIZES and isinstance(labels, Tensor):
            wanted = kept_labels(labels, self._gone).shape
            node.args = tuple(
                wanted[place - 1] if place and self._is_wrong(given, wanted, place - 1) else given
                for place, given in enumerate(node.args)
            )
        return super().value(node)

    def _original(self, given: Any) -> Any:
        number = self._numbers.get(given.name) if isinstance(given, fx.Node) else None
        return given if number is None or self.values[given] == number else number

    def _is_wrong(self, given: Any, wanted: torch.Size, axis: int) -> bool:
        is_computed = isinstance(given, fx.Node) and isinstance(self.values[given], int) and axis < len(wanted)
        return is_computed and self.values[given] not in (-1, wanted[axis])


def _same(found: Any, before: Any, gone: Tensor) -> bool:
    if isinstance(before, tuple | list):
        return (
            isinstance(found, tuple | list)
            and len(found) == len(before)
            and all(_same(one, other, gone) for one, other in zip(found, before, strict=True))
        )
    if not isinstance(before, Tensor):
        return True
    expected = kept_labels(before, gone)
    if not isinstance(found, Tensor) or expected.shape != found.shape:
        return False
    return bool((compressed(expected) == compressed(found)).all())
