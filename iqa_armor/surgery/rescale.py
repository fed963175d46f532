"""Change the unit of a traced network's scores."""

import operator
from typing import Any

import torch
from torch import fx, nn

from iqa_armor.graph.calls import called_name, layer_of

RESHAPES = ("flatten", "squeeze", "view", "reshape", "unsqueeze")


def rescale_output(traced: fx.GraphModule, *, gain: float, offset: float) -> None:
    """Make a network give gain · score + offset, in place.

    The last linear layer takes the change up where nothing but reshaping follows it; elsewhere two operations are added
    to the graph. Raises ValueError if the gain is zero.
    """
    if gain == 0:
        raise ValueError("a gain of 0 would make every score the same")
    output = traced.graph.output_node()
    (scores,) = output.all_input_nodes
    place = last_linear(traced)
    if place is not None:
        layer: Any = traced.get_submodule(place)
        with torch.no_grad():
            layer.weight *= gain
            layer.bias.mul_(gain).add_(offset)
        return
    with traced.graph.inserting_before(output):
        scaled = traced.graph.call_function(operator.mul, (scores, gain))
        shifted = traced.graph.call_function(operator.add, (scaled, offset))
    output.replace_input_with(scores, shifted)
    traced.graph.lint()
    traced.recompile()


def last_linear(traced: fx.GraphModule) -> str | None:
    """Return the name of the linear layer with a bias, called once, that the scores are a mere reshaping of."""
    (node,) = traced.graph.output_node().all_input_nodes
    while len(node.users) == 1:
        layer = layer_of(traced, node)
        if isinstance(layer, nn.Linear):
            calls = [other for other in traced.graph.nodes if (other.op, other.target) == (node.op, node.target)]
            return str(node.target) if layer.bias is not None and len(calls) == 1 else None
        if not (isinstance(layer, nn.Flatten | nn.Identity) or called_name(node) in RESHAPES):
            return None
        node = node.all_input_nodes[0]
    return None
