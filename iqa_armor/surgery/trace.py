"""Turn a network into a graph whose leaves are torch.nn layers and our own blocks."""

from __future__ import annotations

import copy
import traceback
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from iqa_armor.errors import SurgeryError
from iqa_armor.models.graph import TRACE_FAILURES, LeafTracer
from iqa_armor.surgery.mend import mend


def trace(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace a deep copy of a network in eval mode and give every node its size.

    Functional dropout, which tracing freezes, becomes a module again, so that fine-tuning has it; functional layer
    normalization of a module's own weights becomes one, so that pruning can follow its width.

    Args:
        network: Module on normalised input; left untouched.
        example: Input (N, 3, H, W) on the network's device whose sizes the nodes get.

    Returns:
        Graph module with the network's parameter names, in eval mode; node sizes are in `meta["tensor_meta"]`.

    Raises:
        SurgeryError: If the network cannot be traced whole; names the line that broke.
    """
    duplicate = copy.deepcopy(network).eval()
    tracer = LeafTracer()
    try:
        graph = tracer.trace(duplicate)
        traced = fx.GraphModule(tracer.root, graph, type(network).__name__)
    except TRACE_FAILURES as error:
        raise SurgeryError(
            f"{type(network).__name__} cannot be traced: {error} ({_culprit(error)}); torch.fx follows tensors "
            "symbolically, so replace loops over sizes and `if` on tensor values there"
        ) from error
    mend(traced)
    traced.eval()
    propagate_sizes(traced, example)
    _mark_units(traced, network)
    return traced


def propagate_sizes(traced: fx.GraphModule, example: Tensor) -> None:
    """Record the size of every node's value for `example` (N, 3, H, W), in place.

    Raises:
        SurgeryError: If the network does not accept that input.
    """
    try:
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    except TRACE_FAILURES as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise SurgeryError(
            f"the network fails on an input of {tuple(example.shape)}: {reason}; "
            "give the size it expects with --input-size HEIGHTxWIDTH"
        ) from error


def size_of(node: fx.Node) -> tuple[int, ...] | None:
    """Return the size of a node's tensor, or None if its value is not one tensor."""
    meta = node.meta.get("tensor_meta")
    shape = getattr(meta, "shape", None)
    return None if shape is None else tuple(shape)


def _culprit(error: BaseException) -> str:
    """Return the innermost line of the network's own code in a traceback."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename for part in ("torch/fx", "torch/nn", "torch/_", "iqa_armor/surgery", "<eval"))
    ]
    if not own:
        return "inside a torch layer"
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}: {own[-1].line}"


def _mark_units(traced: fx.GraphModule, network: nn.Module) -> None:
    """Note on each node the residual unit it belongs to, in place.

    A unit is an instance of a class of which some instance adds tensors (a shortcut): MobileNetV2's
    `features.14` has no shortcut itself, yet a tensor inside it is no place between stages.
    """
    if isinstance(network, fx.GraphModule):
        _copy_units(traced, network)
        return
    residual = {stack[-1][1] for node in traced.graph.nodes if is_shortcut(node) and (stack := _stack(node))}
    for node in traced.graph.nodes:
        inside = [path for path, kind in _stack(node) if kind in residual and path]
        if inside:
            node.meta["unit"] = inside[-1]


def _copy_units(traced: fx.GraphModule, source: fx.GraphModule) -> None:
    units = {node.name: node.meta.get("unit") for node in source.graph.nodes}
    for node in traced.graph.nodes:
        if units.get(node.name):
            node.meta["unit"] = units[node.name]


def is_shortcut(node: fx.Node) -> bool:
    """Return whether a node adds two maps of the graph, as the end of a residual unit does."""
    if node.op not in ("call_function", "call_method"):
        return False
    named = getattr(node.target, "__name__", node.target) in ("add", "iadd", "add_")
    maps = [source for source in node.all_input_nodes if len(size_of(source) or ()) == 4]
    return named and len(maps) == 2


def _stack(node: fx.Node) -> list[tuple[str, type]]:
    """Return (qualified name, class) of the modules a node was called in, outermost first."""
    return [(str(path), kind) for path, kind in node.meta.get("nn_module_stack", {}).values()]
