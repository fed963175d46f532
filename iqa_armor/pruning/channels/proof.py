"""Prove that a pruned network computes what the original does with the removed channels set to zero."""

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx

from iqa_armor.pruning.channels.labelling import Labelling
from iqa_armor.pruning.channels.labels import leaving, varying


class Masked(fx.Interpreter):
    """The original network with some channels set to zero wherever they are read."""

    def __init__(self, traced: fx.GraphModule, pruned: fx.GraphModule, labelling: Labelling, gone: Tensor) -> None:
        super().__init__(traced)
        self.labelling, self.gone, self.pruned = labelling, gone, pruned
        self._mates = {node.name: node for node in pruned.graph.nodes}
        self._own = {node.name: node for node in labelling.traced.graph.nodes}

    def run_node(self, n: fx.Node) -> Any:
        """Return the value of a node, computed from inputs without the channels that are gone."""
        known = self._own[n.name]
        if known in self.labelling.across:
            return self._normalized(n, self.labelling.across[known])
        held: dict[fx.Node, Any] = {}
        by_name = {source.name: source for source in n.all_input_nodes}
        for original, labels in self.labelling.reads.get(known, ()):
            source = by_name[original.name]
            held.setdefault(source, self.env.get(source))
            if source in self.env:
                goes = leaving(labels, self.gone).to(self.env[source].device)
                self.env[source] = self.env[source].masked_fill(goes, 0)
        try:
            return super().run_node(n)
        finally:
            self.env.update({source: value for source, value in held.items() if value is not None})

    def _normalized(self, node: fx.Node, labels: Tensor) -> Tensor:
        """Normalise over the channels that stay, as the pruned network does; the others become zero."""
        source = node.all_input_nodes[0]
        value, goes = self.env[source], leaving(labels, self.gone)
        axes = varying(goes)
        if not axes:
            found: Tensor = super().run_node(node)
            return found
        staying = torch.nonzero(~goes.flatten()).flatten().to(value.device)
        smaller = value.index_select(axes[0], staying)
        mate = self._mates[node.name]
        if node.op == "call_module":
            result = self.pruned.get_submodule(str(mate.target)).forward(smaller)
        else:
            known = {other: operator.attrgetter(str(other.target))(self.pruned) for other in mate.all_input_nodes[1:]}
            args, kwargs = fx.node.map_arg((mate.args, mate.kwargs), lambda other: known.get(other, smaller))
            result = mate.target(*args, **kwargs)
        return torch.zeros_like(value).index_copy(axes[0], staying, result)


def difference(
    traced: fx.GraphModule, pruned: fx.GraphModule, labelling: Labelling, gone: Tensor, images: Tensor
) -> float:
    """Return the largest difference between a pruned network's scores and the masked original's, in their spread.

    The copy is one before any correction, labels are the original's, `gone` says per label whether what it names went,
    images are normalised (N, 3, H, W), N at least 2.
    """
    exact, smaller, images = copy.deepcopy(traced).double(), copy.deepcopy(pruned).double(), images.double()
    with torch.no_grad():
        # One by one, since labels are those of one image; the pruned network gets them together, as it will be used.
        masked = torch.cat(
            [Masked(exact, smaller, labelling, gone).run(image).flatten() for image in torch.split(images, 1)]
        )
        apart = (masked - smaller.forward(images).flatten()).abs().max()
        spread = exact.forward(images).flatten().std(correction=0)
    return float(apart / max(spread, 1e-6 * masked.abs().max(), torch.tensor(1e-12)))
