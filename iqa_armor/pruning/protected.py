"""Which layers keep their width."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

# Functions and methods that multiply matrices.
PRODUCTS = ("matmul", "bmm", "mm", "einsum", "baddbmm", "scaled_dot_product_attention")


def output_layers(traced: fx.GraphModule) -> Iterator[nn.Module]:
    """Yield the layers whose output is the score itself: their width is not free."""
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    yield from _layers_before(traced, output)


def multiplied_layers(traced: fx.GraphModule) -> Iterator[nn.Module]:
    """Yield the layers whose channels a product of matrices mixes, as bilinear pooling does.

    What reads the product has an input for every pair of channels, which no dependency graph follows; so these layers
    keep their width (ours).
    """
    for node in traced.graph.nodes:
        if node.op in ("call_function", "call_method") and getattr(node.target, "__name__", node.target) in PRODUCTS:
            yield from _layers_before(traced, node)


def _layers_before(traced: fx.GraphModule, end: fx.Node) -> Iterator[nn.Module]:
    """Yield the last convolutions and linear layers on the way to a node."""
    waiting, seen = list(end.all_input_nodes), set(end.all_input_nodes)
    while waiting:
        node = waiting.pop()
        module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            yield module
            continue
        fresh = [source for source in node.all_input_nodes if source not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
