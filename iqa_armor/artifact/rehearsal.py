"""A run of a rebuilt graph without memory: does it fit together, and does it stay within bounds?"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from iqa_armor.artifact.calls import EXPONENT
from iqa_armor.artifact.quick_sizes import value_of_call, value_of_layer
from iqa_armor.artifact.refusal import MAX_LENGTH, MAX_VALUE_ELEMENTS, Refusal, shown
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.tokens import TokenBlock

BATCH = 2
MAX_PARTS = 2**18
ANY_SIZE = (224, 224)
# What torch raises when the layers, sizes or arguments of a graph do not go together.
RUN_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError)


class _Rehearsal(fx.Interpreter):
    """Runs a graph node by node and checks every value that it makes."""

    def run_node(self, n: fx.Node) -> Any:
        """Return the value of a node, unless it is too large."""
        value = super().run_node(n)
        _check_value(value, n.name)
        return value

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of a function, unless making it alone could take all memory."""
        if target in (operator.mul, operator.imul) and any(isinstance(arg, list | tuple) for arg in args):
            raise Refusal("its graph repeats a list")
        if target is operator.pow and isinstance(args[1], int) and abs(args[1]) > EXPONENT:
            raise Refusal(f"its graph raises to a power above {EXPONENT}")
        if target in (torch.split, torch.unbind):
            _check_parts((*args, *kwargs.values()))
        quick = None if kwargs else value_of_call(target, args)
        return super().call_function(target, args, kwargs) if quick is None else quick

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of a method, unless making it alone could take all memory."""
        if target in ("split", "unbind"):
            _check_parts(args)
        quick = None if kwargs else value_of_call(target, args)
        return super().call_method(target, args, kwargs) if quick is None else quick

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of a layer; of a block only its size, since parts of it do not run on the meta device."""
        block = self.fetch_attr(target)
        if isinstance(block, TokenBlock):
            tokens = args[0] if args else kwargs["tokens"]
            block.check(tuple(tokens.shape))
            return torch.empty_like(tokens)
        if not isinstance(block, RobustBlock):
            quick = None if kwargs else value_of_layer(block, args)
            return super().call_module(target, args, kwargs) if quick is None else quick
        count, channels, height, width = (args[0] if args else kwargs["features"]).shape
        if channels != block.channels:
            raise ValueError(f"{target} takes {block.channels} channels, got {channels}")
        side = min(height, width)
        return torch.empty(
            count, channels, *((side, side) if block.pool == "square" else (height, width)), device="meta"
        )


def rehearse(network: fx.GraphModule, size: tuple[int, int] | None) -> None:
    """Run a network on the meta device, where tensors have sizes but no values.

    This bounds the memory that a stranger's graph takes at the recorded image size, not at every size; an
    operation that does not exist on the meta device ends the rehearsal early.

    Args:
        network: Graph module on the meta device.
        size: Recorded (height, width) of its images; None where it takes any, then 224 × 224 is tried.

    Raises:
        Refusal: If a value grows out of bounds or, at a recorded size, the graph fails or gives no scores.
    """
    height, width = size or ANY_SIZE
    rehearsal = _Rehearsal(network.eval())
    rehearsal.extra_traceback = False
    try:
        with torch.no_grad():
            scores = rehearsal.run(torch.empty(BATCH, 3, height, width, device="meta"))
    except NotImplementedError:
        return
    except RUN_ERRORS as error:
        if size is None:
            return
        raise Refusal(f"its graph fails on images of {height} × {width}: {shown(str(error))}") from error
    if size is not None and (not isinstance(scores, Tensor) or scores.numel() != BATCH):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise Refusal(f"its graph must give one score per image, but {BATCH} images give {found}")


def _check_parts(args: tuple[object, ...]) -> None:
    """Check that cutting a tensor into single slices gives no endless list."""
    for arg in args:
        if isinstance(arg, Tensor) and max(arg.shape, default=0) > MAX_PARTS:
            raise Refusal(f"its graph splits a tensor of {max(arg.shape)} along one dimension")


def _check_value(value: object, name: str) -> None:
    if isinstance(value, Tensor) and value.numel() > MAX_VALUE_ELEMENTS:
        raise Refusal(f"node {name!r} makes a tensor of {value.numel()} elements; {MAX_VALUE_ELEMENTS} are allowed")
    if isinstance(value, int) and abs(value) > 2**63:
        raise Refusal(f"node {name!r} makes a number of {value.bit_length()} bits")
    if isinstance(value, list | tuple):
        if len(value) > MAX_LENGTH:
            raise Refusal(f"node {name!r} makes a list of {len(value)} values; {MAX_LENGTH} are allowed")
        for part in value:
            _check_value(part, name)
