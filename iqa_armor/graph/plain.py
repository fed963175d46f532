"""Let plain tensors be made and expanded by sizes that stand in a graph, and values there be told by their kind."""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import is_tensor_method_or_property

if TYPE_CHECKING:
    from iqa_armor.graph.tracer import SizedTracer

READERS = ("tensor", "as_tensor")  # of plain numbers
FACTORIES = ("zeros", "ones", "empty", "rand", "randn")
_TRANSFORMS = "torchvision.transforms.functional"
METHODS = ("expand", "new_zeros", "new_ones", "new_empty")


@contextmanager
def sizes_from(tracer: SizedTracer, network: nn.Module) -> Iterator[None]:
    """Note calls such as `torch.zeros(x.shape[0], 8)` and `buffer.expand(x.shape[0], -1)` in the tracer's graph.

    `torch.tensor([x.shape[2], 1])` becomes a constant. In the code of the network's modules and in torchvision's
    transforms `isinstance` says of a value in the graph what it says of the value itself.
    """
    is_tensor_method_or_property(Tensor.expand)  # keeps a list of what it finds at the first call
    with ExitStack() as stack:
        for code in {type(module).__module__ for module in network.modules()} | {_TRANSFORMS}:
            if code in sys.modules and not code.startswith("torch."):
                _replace(stack, sys.modules[code], "isinstance", functools.partial(_is_of_kind, tracer))
        for name in READERS:
            _replace(stack, torch, name, _settling(tracer, getattr(torch, name)))
        for owner, names in ((torch, FACTORIES), (Tensor, METHODS)):
            for name in names:
                _replace(stack, owner, name, _noting(tracer, getattr(owner, name), name if owner is Tensor else None))
        yield


def _replace(stack: ExitStack, owner: Any, name: str, value: object) -> None:
    stack.callback(*((setattr, owner, name, vars(owner)[name]) if name in vars(owner) else (delattr, owner, name)))
    setattr(owner, name, value)


def _is_of_kind(tracer: SizedTracer, value: Any, kind: Any) -> bool:
    known = tracer.values.get(value.node) if builtins.isinstance(value, fx.Proxy) else None
    return builtins.isinstance(value, kind) or (known is not None and builtins.isinstance(known, kind))


def _settling(tracer: SizedTracer, called: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(called)
    def call(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(tracer.values[each.node], Tensor) for each in proxies(args, kwargs)):
            return called(*args, **kwargs)
        args, kwargs = tracer.plain((args, kwargs))
        return called(*args, **kwargs)

    return call


def _noting(tracer: SizedTracer, called: Callable[..., Any], method: str | None) -> Callable[..., Any]:
    @functools.wraps(called)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not proxies(args, kwargs):
            return called(*args, **kwargs)
        if method is not None:
            return tracer.create_proxy("call_method", method, args, kwargs)
        return tracer.create_proxy("call_function", called, args if len(args) < 2 else (args,), kwargs)

    return call


def proxies(*values: Any) -> list[fx.Proxy]:
    """Return what stands for values of a graph among others, however deep they lie."""
    found: list[fx.Proxy] = []
    fx.node.map_aggregate(values, lambda each: found.append(each) if isinstance(each, fx.Proxy) else None)
    return found
