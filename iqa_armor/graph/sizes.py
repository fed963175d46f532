"""How large the values of a graph are."""

import torch
from torch import Tensor, fx

from iqa_armor.errors import ArmorError, SurgeryError
from iqa_armor.graph.failures import NodeFailure
from iqa_armor.graph.interpret import interpret

# In a graph module's meta: (H, W) of the only images it serves; missing where any will do.
FIXED_SIZE = "fixed_size"
ADVICE = "give the size it expects with --input-size HEIGHTxWIDTH"


def record_sizes(
    traced: fx.GraphModule, example: Tensor, *, error: type[ArmorError] = SurgeryError, advice: str = ADVICE
) -> None:
    """Record the size of every node's value for `example` (N, 3, H, W), in place.

    Where the network fails on it, an `error` names layer, cause and line, and what `advice` tells a user to do.
    """
    try:
        with torch.no_grad():
            for node, value in interpret(traced, example):
                node.meta["size"] = tuple(value.shape) if isinstance(value, Tensor) else None
    except NodeFailure as failure:
        raise error(f"the network fails on an input of {tuple(example.shape)} at {failure}; {advice}") from failure


def size_of(node: fx.Node) -> tuple[int, ...] | None:
    """Return the recorded size of a node's tensor, or None if its value is not one tensor."""
    size: tuple[int, ...] | None = node.meta.get("size")
    return size
