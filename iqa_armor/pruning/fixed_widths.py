"""Which layers keep their width."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from iqa_armor.graph.calls import called_name, layer_of
from iqa_armor.graph.walk import nearest

# Functions and methods that multiply matrices.
PRODUCTS = ("matmul", "bmm", "mm", "einsum", "baddbmm", "scaled_dot_product_attention")


def layers_of_fixed_width(traced: fx.GraphModule) -> list[Any]:
    """Return the layers whose width is not free.

    Those are the layers whose output is the score itself, and those whose channels a product of matrices mixes, as
    bilinear pooling does: what reads the product has an input for every pair of channels, which no dependency graph
    follows (ours).
    """

    def is_layer(node: fx.Node) -> bool:
        return isinstance(layer_of(traced, node), nn.modules.conv._ConvNd | nn.Linear)

    ends = [node for node in traced.graph.nodes if node.op == "output" or called_name(node) in PRODUCTS]
    return [layer_of(traced, node) for end in ends for node in nearest(end, is_layer)]
