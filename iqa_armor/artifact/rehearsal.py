"""A run of a rebuilt graph without memory: does it fit together, is it a function, does it stay within bounds?"""

import math
import operator
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from iqa_armor.artifact.account import Account
from iqa_armor.artifact.limits import MAX_LENGTH, FormatError, shown
from iqa_armor.artifact.quick_sizes import POINTWISE, value_of_call, value_of_layer
from iqa_armor.artifact.signatures import EXPONENT
from iqa_armor.graph.calls import layer_of
from iqa_armor.graph.failures import NodeFailure
from iqa_armor.graph.interpret import call_node, interpret
from iqa_armor.machine import memory_limit
from iqa_armor.models.base import KONIQ_SIZE
from iqa_armor.models.steady import COMPANY, DRAWS
from iqa_armor.ortho.block import RobustBlock

BATCH = 2
MAX_PARTS = 2**18
ANY_SIZE = (224, 224)


def rehearse(network: fx.GraphModule, size: tuple[int, int] | None) -> None:
    """Run a network for two images on the meta device, where tensors have sizes but no values.

    Bounds the memory and operations that a stranger's graph takes at the recorded image size, not at every size, and
    refuses one that changes its stored tensors. What it must be asked about later stands in its `meta` then.

    Args:
        network: Graph module on the meta device, without memory.
        size: Recorded (height, width) of its images; None where it takes any, then usual ones are tried.
    """
    tried = (size,) if size else (ANY_SIZE, KONIQ_SIZE)
    for height, width in tried:
        try:
            scores = _run(network.eval(), height, width)
            break
        except NodeFailure as error:
            if (height, width) == tried[-1]:
                raise FormatError(f"its graph fails on images of {height} × {width}: {shown(str(error))}") from error
    if not isinstance(scores, Tensor) or scores.numel() != BATCH:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise FormatError(f"its graph must give one score per image, but {BATCH} images give {found}")


def _run(network: fx.GraphModule, height: int, width: int) -> Any:
    stored = [*network.parameters(), *network.buffers()]
    unproven: list[fx.Node] = []
    scores: Any = None
    left = memory_limit() - sum(value.nbytes for value in stored)
    with torch.no_grad(), torch.device("meta"), Account(left, stored) as account:
        images = torch.empty(BATCH, 3, height, width)
        for node, scores in interpret(network, images, call=partial(_call, account, unproven)):
            _check_value(scores, node.name)
        account.close()
    network.meta.update({COMPANY: "untried" if unproven else "any", DRAWS: account.draws})
    return scores


def _call(
    account: Account, unproven: list[fx.Node], traced: fx.GraphModule, node: fx.Node, args: Any, kwargs: Any
) -> Any:
    """Return what a node gives, unless making it alone could take all memory."""
    if node.target in (operator.mul, operator.imul) and any(isinstance(arg, list | tuple) for arg in args):
        raise FormatError("its graph repeats a list")
    if node.target is operator.pow and isinstance(args[1], int) and abs(args[1]) > EXPONENT:
        raise FormatError(f"its graph raises to a power above {EXPONENT}")
    if node.op != "call_module" and node.target in (torch.split, torch.unbind, "split", "unbind"):
        _check_parts((*args, *kwargs.values()))
    layer = layer_of(traced, node)
    quick = value_of_call(node.target, args) if layer is None else value_of_layer(layer, args)
    is_apart = isinstance(layer, (*POINTWISE, RobustBlock)) or is_flattening(traced, node)
    if any(each.op == "get_attr" for each in node.all_input_nodes) or not (is_apart or quick is not None):
        unproven.append(node)
    if kwargs or quick is None:
        return call_node(traced, node, args, kwargs)
    weight, window = getattr(layer, "weight", None), getattr(layer, "kernel_size", 1)
    each = weight.numel() // len(weight) if weight is not None else math.prod(torch.nn.modules.utils._pair(window))
    account.spend(2 * quick.numel() * each)
    return quick


def is_flattening(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node makes one row of each image's values."""
    if node.op == "call_module":
        layer = layer_of(traced, node)
        return isinstance(layer, nn.Flatten) and layer.start_dim == 1
    return node.target in (torch.flatten, "flatten") and node.args[1:2] == (1,)


def _check_parts(args: tuple[object, ...]) -> None:
    """Check that cutting a tensor into single slices gives no endless list."""
    for arg in args:
        if isinstance(arg, Tensor) and max(arg.shape, default=0) > MAX_PARTS:
            raise FormatError(f"its graph splits a tensor of {max(arg.shape)} along one dimension")


def _check_value(value: object, name: str) -> None:
    if isinstance(value, int) and abs(value) > 2**63:
        raise FormatError(f"node {name!r} makes a number of {value.bit_length()} bits")
    if isinstance(value, list | tuple):
        if len(value) > MAX_LENGTH:
            raise FormatError(f"node {name!r} makes a list of {len(value)} values; {MAX_LENGTH} are allowed")
        for part in value:
            _check_value(part, name)
