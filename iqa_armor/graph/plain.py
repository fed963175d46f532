"""Let plain tensors be made and expanded by sizes that stand in a graph, and values there be told by their kind."""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import is_tensor_method_or_property

if TYPE_CHECKING:
    from iqa_armor.graph.tracer import SizedTracer

READERS = ("tensor", "as_tensor")  # of plain numbers
FACTORIES = ("zeros", "ones", "empty", "rand", "randn")
_ASKING = {"torchvision", "einops"}
METHODS = ("expand", "new_zeros", "new_ones", "new_empty")


@contextmanager
def sizes_from(tracer: SizedTracer, network: nn.Module) -> Iterator[None]:
    """Note calls such as `torch.zeros(x.shape[0], 8)` and `buffer.expand(x.shape[0], -1)` in the tracer's graph.

    `torch.tensor([x.shape[2], 1])` becomes a constant. In the packages of the network's modules, torchvision and einops
    `isinstance` says of a value in the graph what it says of the value itself.
    """
    is_tensor_method_or_property(Tensor.expand)  # keeps a list of what it finds at the first call
    with ExitStack() as stack:
        own = {type(module).__module__ for module in network.modules()}
        packages = {code.partition(".")[0] for code in own} | _ASKING
        for name, code in list(sys.modules.items()):
            is_asking = name in own or (name.partition(".")[0] in packages - {"torch", "iqa_armor"})
            if is_asking and type(code) is ModuleType and not name.startswith("torch."):
                _replace(stack, code, "isinstance", functools.partial(_is_of_kind, tracer))
        if (cached := getattr(sys.modules.get("einops.einops"), "_reconstruct_from_shape", None)) is not None:
            stack.callback(cached.cache_clear)  # it keeps sizes, which keep tensors
        _replace(stack, torch.jit.ScriptFunction, "__call__", _from_source(vars(torch.jit.ScriptFunction)["__call__"]))
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


def _from_source(called: Callable[..., Any]) -> Callable[..., Any]:
    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what a TorchScript function was compiled from, where values of the graph are given."""
        source: Any = getattr(function, "_torchdynamo_inline", None)
        return source(*args, **kwargs) if source and proxies(args, kwargs) else called(function, *args, **kwargs)

    return call


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
