"""Run a graph node by node, and record how large its values are."""

import operator
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import NETWORK_FAILURES, ArmorError, SurgeryError
from iqa_armor.graph.failures import NodeFailure, failure_at


def with_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of a tensor with `value` at an index: what `tensor[index] = value` leaves."""
    changed = tensor.clone()
    changed[index] = value
    return changed


def for_each(value: Any, images: Tensor) -> list[Any]:
    """Return a value once for each image: what `[value] * len(images)` gives."""
    return [value] * len(images)


Call = Callable[[fx.GraphModule, fx.Node, tuple[Any, ...], dict[str, Any]], Any]


def call_node(traced: nn.Module, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a node that calls something gives for arguments."""
    target: Any = node.target
    if node.op == "call_module":
        return traced.get_submodule(target)(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return target(*args, **kwargs)


def interpret(traced: fx.GraphModule, *inputs: Any, call: Call = call_node) -> Iterator[tuple[fx.Node, Any]]:
    """Yield each node of a graph with its value, the output last; values are dropped once nothing reads them.

    Placeholders without an input take their defaults; `call` computes the value of a node that calls something. The
    generated code is not used, so torch prints nothing when it fails. Raises NodeFailure if a node cannot be computed;
    says which, why, and where its author wrote it.
    """
    values: dict[fx.Node, Any] = {}
    given = iter(inputs)
    finished = _last_read(traced.graph)
    for node in traced.graph.nodes:
        args, kwargs = (fx.node.map_arg(each, values.__getitem__) for each in (node.args, node.kwargs))
        try:
            values[node] = _value(traced, node, given, call, args, kwargs)
        except NETWORK_FAILURES as error:
            raise failure_at(node, traced, error) from error
        yield node, values[node]
        for each in finished.get(node, ()):
            del values[each]


def _value(
    traced: fx.GraphModule, node: fx.Node, given: Iterator[Any], call: Call, args: Any, kwargs: dict[str, Any]
) -> Any:
    if node.op == "placeholder":
        for value in (*islice(given, 1), *args):
            return value
        raise TypeError(f"the network needs a further input {node.target!r}")
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(traced)
    return args[0] if node.op == "output" else call(traced, node, args, kwargs)


def _last_read(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Return the nodes whose values nothing reads after a node, by that node."""
    seen: set[fx.Node] = set()
    finished: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(graph.nodes):
        fresh = [each for each in (node, *node.all_input_nodes) if each not in seen]
        seen.update(fresh)
        finished[node] = fresh
    return finished


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
