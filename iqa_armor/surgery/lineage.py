"""From which convolutions each tensor of a traced network comes."""

from math import prod

from torch import fx

from iqa_armor.graph.calls import is_convolution
from iqa_armor.graph.sizes import size_of
from iqa_armor.graph.walk import Dominators


class Lineage:
    """What the nodes of a traced graph that depend on the images come from.

    `convolutions` are those on maps larger than one pixel, in order; `last_convolutions` are, by node, those before it
    with no other in between, itself if it is one.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.dominators = Dominators(traced.graph)
        self.convolutions: list[fx.Node] = []
        self.last_convolutions: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in traced.graph.nodes:
            if node not in self.dominators:
                continue
            before = (self.last_convolutions.get(source, frozenset()) for source in node.all_input_nodes)
            self.last_convolutions[node] = frozenset[fx.Node]().union(*before)
            if is_convolution(traced, node) and prod((size_of(node) or ())[2:]) > 1:
                self.convolutions.append(node)
                self.last_convolutions[node] = frozenset([node])

    @property
    def image_size(self) -> tuple[int, ...]:
        """Size (N, 3, H, W) of the example image."""
        images = next(node for node in self.traced.graph.nodes if node.op == "placeholder")
        return size_of(images) or ()
