"""Turn a network into a graph whose leaves are torch.nn layers and our own blocks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn

from iqa_armor.errors import NETWORK_FAILURES, SurgeryError
from iqa_armor.graph.failures import calling_line, cause_of, failing_line, shown_line
from iqa_armor.graph.restore import keep_forced_dropout, restore_layers
from iqa_armor.graph.sizes import record_sizes
from iqa_armor.graph.units import copy_notes, mark_units


class LeafTracer(fx.Tracer):
    """Tracer that stops at torch.nn layers, torchvision's stochastic depth and what says `is_traced_whole`.

    It enters everything else, and notes at each node the line of source that made it.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether `m` stays one node of the graph."""
        # torchvision itself takes a second to import, so its class is told by name.
        is_stochastic_depth = type(m).__module__ == "torchvision.ops.stochastic_depth"
        is_whole = bool(getattr(m, "is_traced_whole", False))
        return is_whole or is_stochastic_depth or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a node; arguments as of the base class."""
        node = super().create_node(*args, **kwargs)
        node.meta["line"] = calling_line(__file__)
        return node


def trace(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace a deep copy of a network in eval mode and give every node its size.

    Dropout that is off in eval mode, and functional layer normalization of a module's own weights, become layers, so
    that fine-tuning and pruning have them; dropout that its author keeps on in eval mode stays on.

    Args:
        network: Module on normalised input; left untouched.
        example: Input (N, 3, H, W) on the network's device whose sizes the nodes get.

    Returns:
        Graph module with the network's parameter names, in eval mode; `size_of` gives the sizes of its nodes.

    Raises:
        SurgeryError: If the network cannot be traced whole, keeps another layer than dropout in training mode, or fails
            on the example; names the line that broke.
    """
    try:
        duplicate = copy.deepcopy(network).eval()
    except NETWORK_FAILURES as error:
        raise SurgeryError(f"{type(network).__name__} cannot be copied: {cause_of(error)}") from error
    traced = _followed(duplicate)
    keep_forced_dropout(traced)
    restore_layers(traced)
    traced.eval()
    record_sizes(traced, example)
    if isinstance(network, fx.GraphModule):
        copy_notes(traced, network)
    else:
        mark_units(traced)
    return traced


def trace_shared(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Return the graph of what a network computes in eval mode, made of the network's own layers, not of copies.

    Args:
        network: Module on normalised input; its mode is left as it is.
        example: Input (N, 3, H, W) on its device; `size_of` gives the sizes of values for it.

    Raises:
        SurgeryError: If the network cannot be followed symbolically or refuses the example.
    """
    with evaluating(network):
        traced = _followed(network)
        record_sizes(traced, example)
    return traced


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode and give every layer its own mode back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _followed(network: nn.Module) -> fx.GraphModule:
    """Return the graph of a network, without sizes; errors as in `trace`."""
    try:
        return fx.GraphModule(network, LeafTracer().trace(network), type(network).__name__)
    except NETWORK_FAILURES as error:
        line = failing_line(error)
        raise SurgeryError(
            f"{type(network).__name__} cannot be traced: {cause_of(error)} "
            f"({shown_line(line) if line else 'inside a torch layer'}); torch.fx follows tensors symbolically, so "
            "replace loops over sizes and `if` on tensor values there"
        ) from error
