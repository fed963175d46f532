"""Which nodes of a traced network depend on the input, and on which convolutions."""

from __future__ import annotations

from math import prod

from torch import fx, nn
from torch.nn import functional

from iqa_armor.surgery.trace import size_of

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class Flow:
    """Convolutions, dominators and order of the nodes that depend on the input."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.order = {node: index for index, node in enumerate(traced.graph.nodes)}
        self.dominators: dict[fx.Node, frozenset[fx.Node]] = {}
        self.convolutions: list[fx.Node] = []
        self.last_convolutions: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in traced.graph.nodes:
            self._visit(node)

    def _visit(self, node: fx.Node) -> None:
        if reads_size(node):
            return  # what is made of sizes alone does not depend on the pixels
        inputs = [source for source in node.all_input_nodes if source in self.dominators]
        if node.op == "placeholder":
            if self.dominators:
                return  # the first placeholder is the images; others are options such as an attention mask
            self.dominators[node] = frozenset([node])
            self.last_convolutions[node] = frozenset()
        elif inputs:
            common = frozenset.intersection(*(self.dominators[source] for source in inputs))
            self.dominators[node] = common | {node}
            before = frozenset[fx.Node]().union(*(self.last_convolutions[source] for source in inputs))
            size = size_of(node)
            if is_convolution(self.traced, node) and size is not None and prod(size[2:]) > 1:
                self.convolutions.append(node)
                before = frozenset([node])
            self.last_convolutions[node] = before

    def before(self, node: fx.Node) -> frozenset[fx.Node]:
        """Return the nodes that `node` depends on, itself included."""
        seen, waiting = {node}, [node]
        while waiting:
            fresh = [source for source in waiting.pop().all_input_nodes if source not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
        return frozenset(seen)


def reads_size(node: fx.Node) -> bool:
    """Return whether a node reads the size of a tensor, not its values."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "ndimension", "numel", "nelement")
    return (
        node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim", "device", "dtype")
    )


def leads_to_last_stage(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a convolution lies at or behind `node`, so that it belongs to the trunk, not to a head."""
    seen, waiting = set(), [node]
    while waiting:
        current = waiting.pop()
        if is_convolution(traced, current):
            return True
        fresh = [user for user in current.users if user not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return False


def is_convolution(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node is a convolution on maps."""
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), CONVOLUTIONS)
    return node.op == "call_function" and node.target in (functional.conv2d, functional.conv_transpose2d)
