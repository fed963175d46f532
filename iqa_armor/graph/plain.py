"""Let plain tensors be made and expanded by sizes that stand in a graph."""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.overrides import is_tensor_method_or_property

from iqa_armor.graph.known import Known

if TYPE_CHECKING:
    from iqa_armor.graph.tracer import SizedTracer

READERS = ("tensor", "as_tensor", "finfo", "iinfo", "promote_types", "can_cast")  # of plain numbers and types
_UNASKED = {*sys.stdlib_module_names, "torch", "functorch", "iqa_armor", "numpy", "sympy"}
_EMPTY, _ZEROS = torch.empty, torch.zeros
FACTORIES = ("zeros", "ones", "empty", "rand", "randn")
METHODS = ("expand", "new_zeros", "new_ones", "new_full", "new_empty")


@contextmanager
def sizes_from(tracer: SizedTracer) -> Iterator[None]:
    """Note calls such as `torch.zeros(x.shape[0], 8)` and `buffer.expand(x.shape[0], -1)` in the tracer's graph.

    `torch.tensor([x.shape[2], 1])` becomes a constant. Outside torch and Python's own library `isinstance`, and
    everywhere `torch.is_tensor`, say of a value in the graph what they say of the value itself. Other threads, which
    have no such values, are answered as ever.
    """
    is_tensor_method_or_property(Tensor.expand)  # keeps a list of what it finds at the first call
    with ExitStack() as stack:
        stack.enter_context(_kinds_of_values())
        replace_attribute(stack, torch, "is_tensor", lambda value: _is_of_kind(value, Tensor))
        if (cached := getattr(sys.modules.get("einops.einops"), "_reconstruct_from_shape", None)) is not None:
            stack.callback(cached.cache_clear)  # it keeps sizes, which keep tensors
        replace_attribute(
            stack, torch.jit.ScriptFunction, "__call__", _from_source(vars(torch.jit.ScriptFunction)["__call__"])
        )
        _pass_for_tensors(stack)
        for name in READERS:
            replace_attribute(stack, torch, name, _settling(tracer, getattr(torch, name)))
        for owner, names in ((torch, FACTORIES), (Tensor, METHODS)):
            for name in names:
                replace_attribute(
                    stack, owner, name, _noting(tracer, getattr(owner, name), name if owner is Tensor else None)
                )
        yield


@contextmanager
def _kinds_of_values() -> Iterator[None]:
    """Let `isinstance` in modules of others say of a value in the graph what it says of the value itself."""
    modules = [vars(code) for name, code in list(sys.modules.items()) if _is_asked(name, code)]
    own = [(names, names["isinstance"]) for names in modules if "isinstance" in names]
    for names in modules:  # thousands, so plainly
        names["isinstance"] = _is_of_kind
    try:
        yield
    finally:
        for names in modules:
            names.pop("isinstance", None)
        for names, known in own:
            names["isinstance"] = known


def _is_asked(name: str, code: object) -> bool:
    return type(code) is ModuleType and name.partition(".")[0] not in _UNASKED


def _pass_for_tensors(stack: ExitStack) -> None:
    """Let torchvision's second transforms, which look classes up in tables, take values of a graph as tensors."""
    tables = getattr(sys.modules.get("torchvision.transforms.v2.functional._utils"), "_KERNEL_REGISTRY", {})
    for table in tables.values():
        if Tensor in table:
            table[Known] = table[Tensor]
            stack.callback(table.pop, Known)


def replace_attribute(stack: ExitStack, owner: Any, name: str, value: object) -> None:
    """Give an object another attribute until a stack is left."""
    stack.callback(*((setattr, owner, name, vars(owner)[name]) if name in vars(owner) else (delattr, owner, name)))
    setattr(owner, name, value)


def _is_of_kind(value: Any, kind: Any) -> bool:
    known = value.value() if builtins.isinstance(value, Known) else None
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
        given = proxies(args, kwargs)  # none in other threads, which see this as well
        if not given or any(isinstance(tracer.values[each.node], Tensor) for each in given):
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
        made = _ZEROS if called is _EMPTY else called  # what is written into it is the same
        return tracer.create_proxy("call_function", made, args if len(args) < 2 else (args,), kwargs)

    return call


def proxies(*values: Any) -> list[fx.Proxy]:
    """Return what stands for values of a graph among others, however deep they lie."""
    found: list[fx.Proxy] = []
    fx.node.map_aggregate(values, lambda each: found.append(each) if isinstance(each, fx.Proxy) else None)
    return found
