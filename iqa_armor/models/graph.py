"""A network as a graph that shares its layers: which tensors everything passes through, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torchvision.ops import StochasticDepth

from iqa_armor.errors import NETWORK_FAILURES, SurgeryError
from iqa_armor.models.sqish import Sqish
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.tokens import TokenBlock

# What user code raises when it looks at the value of a traced tensor, or when its layers do not fit the input.
TRACE_FAILURES = (fx.proxy.TraceError, *NETWORK_FAILURES)


class LeafTracer(fx.Tracer):
    """Tracer that stops at torch.nn layers, stochastic depth, Sqish and robust blocks, and enters everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether `m` stays one node of the graph."""
        if isinstance(m, RobustBlock | TokenBlock | Sqish | StochasticDepth):
            return True
        return super().is_leaf_module(m, module_qualified_name)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode and give every layer its own mode back afterwards."""
    in_training = [module for module in network.modules() if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def shared_graph(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Return the graph of what a network computes in eval mode, made of the network's own layers, not of copies.

    Args:
        network: Module on normalised input; its mode is left as it is.
        example: Input (N, 3, H, W) on its device; `size_of` gives the sizes of values for it.

    Raises:
        SurgeryError: If the network cannot be followed symbolically, takes several inputs or refuses the example.
    """
    with evaluating(network):
        try:
            graph = LeafTracer().trace(network)
            traced = fx.GraphModule(network, graph, type(network).__name__)
            with torch.no_grad():
                ShapeProp(traced).propagate(example)
        except TRACE_FAILURES as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise SurgeryError(
                f"{type(network).__name__} cannot be followed for an input of {tuple(example.shape)}: {reason}; "
                "give the size it expects, and replace loops over sizes and `if` on tensor values"
            ) from error
    return traced


def size_of(node: fx.Node) -> tuple[int, ...] | None:
    """Return the size of a node's tensor, or None if its value is not one tensor."""
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return None if shape is None else tuple(shape)


def passages(graph: fx.Graph) -> list[fx.Node]:
    """Return the tensors through which everything passes from the input to the output, in order, the input first.

    Reading the size of an earlier tensor is a way around.

    Raises:
        SurgeryError: If the graph has several inputs, or its output does not depend on the input.
    """
    dominators: dict[fx.Node, frozenset[fx.Node]] = {}
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in graph.nodes:
        known = [dominators[source] for source in node.all_input_nodes if source in dominators]
        if node.op == "placeholder" or known:
            dominators[node] = frozenset.intersection(*known) | {node} if known else frozenset([node])
    output = next(node for node in graph.nodes if node.op == "output")
    if len(inputs) != 1 or output not in dominators:
        raise SurgeryError(f"a network of one input is needed whose output depends on it, got {len(inputs)} inputs")
    return [node for node in graph.nodes if node in dominators[output] and size_of(node) and node is not output]
