"""Run a graph node by node, record how large its values are, and say in a user's words what it fails at."""

import linecache
import operator
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import NETWORK_FAILURES, SurgeryError
from iqa_armor.graph.calls import called_name, layer_of

Line = tuple[str, int]
Call = Callable[[fx.GraphModule, fx.Node, tuple[Any, ...], dict[str, Any]], Any]
LONGEST = 400  # characters of a cause
_MACHINERY = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
FIXED_SIZE = "fixed_size"  # in a graph module's meta: (H, W) of the only images it serves; missing where any will do
ADVICE = "give the size it expects with --input-size HEIGHTxWIDTH"


class NodeFailure(Exception):
    """A node that fails on its inputs; the text names cause, layer and line, `__cause__` is the error itself."""


def cause_of(error: BaseException) -> str:
    """Return the first paragraph of what an error says on one line, with its kind where the text alone says little."""
    text, kind = " ".join(str(error).strip().split("\n\n")[0].split()), type(error).__name__
    says_enough = isinstance(error, RuntimeError | ValueError | AssertionError)
    return (text if says_enough else f"{kind}: {text}")[:LONGEST] if text else kind


def failure_at(node: fx.Node, traced: nn.Module, error: BaseException) -> NodeFailure:
    layer, place = layer_of(traced, node), place_of(node)
    owner = f" in {place!r}" if place else ""
    function = f"{called_name(node) or node.op} (node {node.name!r}{owner})"
    described = function if layer is None else f"layer {str(node.target)!r} ({type(layer).__name__})"
    return NodeFailure(f"{described}: {cause_of(error)}{line_of(node)}")


def calling_line(caller: str) -> Line | None:
    """Return file and number of the innermost line of a network's own code that runs now, called from file `caller`."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != caller:
        if not frame.f_code.co_filename.startswith(_MACHINERY):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def failed_at(error: BaseException) -> str:
    """Return the innermost line of a network's own code in an error's traceback, as messages show it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_MACHINERY)]
    return shown_line((frames[-1].filename, frames[-1].lineno or 0)) if frames else "inside a torch layer"


def shown_line(line: Line) -> str:
    """Return a line of source as messages show it: file, number, text."""
    return f"{Path(line[0]).name}:{line[1]}: {linecache.getline(*line).strip()}"


def line_of(node: fx.Node) -> str:
    """Return the line of source that made a node, in brackets behind a space, as far as it is known."""
    line = node.meta.get("line")
    return f" ({shown_line(line)})" if line else ""


def place_of(node: fx.Node) -> str:
    """Return the path of the innermost module whose code made a node; "" is the network's own."""
    inside = [str(path) for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    return inside[-1] if inside else ""


def with_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of a tensor with `value` at an index: what `tensor[index] = value` leaves."""
    changed = tensor.clone()
    changed[index] = value
    return changed


def for_each(value: Any, images: Tensor) -> list[Any]:
    """Return a value once for each image: what `[value] * len(images)` gives."""
    return [value] * len(images)


def call_node(traced: nn.Module, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target: Any = node.target
    if node.op == "call_module":
        return traced.get_submodule(target)(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return target(*args, **kwargs)


def interpret(
    traced: fx.GraphModule, *inputs: Any, call: Call = call_node, values: dict[fx.Node, Any] | None = None
) -> Iterator[tuple[fx.Node, Any]]:
    """Yield each node of a graph with its value, the output last; `values` are dropped once nothing reads them.

    Placeholders without an input take their defaults; `call` computes what a node gives that calls something. Generated
    code, whose failures torch prints, is not used. A NodeFailure says which node fails, why, and where.
    """
    values, given = {} if values is None else values, iter(inputs)
    last = {each: node for node in traced.graph.nodes for each in (node, *node.all_input_nodes)}
    for node in traced.graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        try:
            values[node] = _value(traced, node, given, call, args, kwargs)
        except NETWORK_FAILURES as error:
            raise failure_at(node, traced, error) from error
        yield node, values[node]
        for each in {node, *node.all_input_nodes}:
            if last[each] is node:
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


def notes_of(network: nn.Module) -> dict[str, Any]:
    """Return the meta of a graph module, and nothing of another network: its author may call a layer `meta`."""
    return network.meta if isinstance(network, fx.GraphModule) else {}


def record_sizes(traced: fx.GraphModule, example: Tensor) -> None:
    """Record the sizes of all values for an example (N, 3, H, W), in place; a SurgeryError says where it fails."""
    try:
        with torch.no_grad():
            for node, value in interpret(traced, example):
                node.meta["size"] = tuple(value.shape) if isinstance(value, Tensor) else None
    except NodeFailure as failure:
        shape = tuple(example.shape)
        raise SurgeryError(f"the network fails on an input of {shape} at {failure}; {ADVICE}") from failure


def size_of(node: fx.Node) -> tuple[int, ...] | None:
    """Return the recorded size of a node's tensor, or None if its value is not one tensor."""
    return cast("tuple[int, ...] | None", node.meta.get("size"))
