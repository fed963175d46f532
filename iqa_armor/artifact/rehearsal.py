"""A run of a rebuilt graph without memory: does it fit together, and does it stay within bounds?"""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from iqa_armor.artifact.limits import MAX_LENGTH, MAX_VALUE_ELEMENTS, FormatError, shown
from iqa_armor.artifact.quick_sizes import value_of_call, value_of_layer
from iqa_armor.artifact.signatures import EXPONENT
from iqa_armor.graph.calls import layer_of
from iqa_armor.graph.failures import NodeFailure
from iqa_armor.graph.interpret import call_node, interpret

BATCH = 2
MAX_PARTS = 2**18
ANY_SIZE = (224, 224)


def rehearse(network: fx.GraphModule, size: tuple[int, int] | None) -> None:
    """Run a network on the meta device, where tensors have sizes but no values.

    This bounds the memory that a stranger's graph takes at the recorded image size, not at every size; an
    operation that does not exist on the meta device ends the rehearsal early.

    Args:
        network: Graph module on the meta device.
        size: Recorded (height, width) of its images; None where it takes any, then 224 × 224 is tried.
    """
    height, width = size or ANY_SIZE
    scores: Any = None
    try:
        with torch.no_grad():
            for node, scores in interpret(
                network.eval(), torch.empty(BATCH, 3, height, width, device="meta"), call=_call
            ):
                _check_value(scores, node.name)
    except NodeFailure as error:
        if size is None or isinstance(error.__cause__, NotImplementedError):
            return
        raise FormatError(f"its graph fails on images of {height} × {width}: {shown(str(error))}") from error
    if size is not None and (not isinstance(scores, Tensor) or scores.numel() != BATCH):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise FormatError(f"its graph must give one score per image, but {BATCH} images give {found}")


def _call(traced: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a node gives, unless making it alone could take all memory."""
    if node.target in (operator.mul, operator.imul) and any(isinstance(arg, list | tuple) for arg in args):
        raise FormatError("its graph repeats a list")
    if node.target is operator.pow and isinstance(args[1], int) and abs(args[1]) > EXPONENT:
        raise FormatError(f"its graph raises to a power above {EXPONENT}")
    if node.op != "call_module" and node.target in (torch.split, torch.unbind, "split", "unbind"):
        _check_parts((*args, *kwargs.values()))
    layer = layer_of(traced, node)
    quick = value_of_call(node.target, args) if layer is None else value_of_layer(layer, args)
    return call_node(traced, node, args, kwargs) if kwargs or quick is None else quick


def _check_parts(args: tuple[object, ...]) -> None:
    """Check that cutting a tensor into single slices gives no endless list."""
    for arg in args:
        if isinstance(arg, Tensor) and max(arg.shape, default=0) > MAX_PARTS:
            raise FormatError(f"its graph splits a tensor of {max(arg.shape)} along one dimension")


def _check_value(value: object, name: str) -> None:
    if isinstance(value, Tensor) and value.numel() > MAX_VALUE_ELEMENTS:
        raise FormatError(f"node {name!r} makes a tensor of {value.numel()} elements; {MAX_VALUE_ELEMENTS} are allowed")
    if isinstance(value, int) and abs(value) > 2**63:
        raise FormatError(f"node {name!r} makes a number of {value.bit_length()} bits")
    if isinstance(value, list | tuple):
        if len(value) > MAX_LENGTH:
            raise FormatError(f"node {name!r} makes a list of {len(value)} values; {MAX_LENGTH} are allowed")
        for part in value:
            _check_value(part, name)
