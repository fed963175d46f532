"""What stands for a value of a graph while a network is followed: what Python, and plain tensors, make of it."""

from __future__ import annotations

import builtins
import functools
import math
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx
from torch.fx.proxy import Attribute
from torch.overrides import is_tensor_method_or_property

from iqa_armor.graph.interpret import with_item

if TYPE_CHECKING:
    from iqa_armor.graph.tracer import SizedTracer

READERS = ("tensor", "as_tensor", "finfo", "iinfo", "promote_types", "can_cast")  # of plain numbers and types
_UNASKED = {*sys.stdlib_module_names, "torch", "functorch", "iqa_armor", "numpy", "sympy"}
_EMPTY, _ZEROS = torch.empty, torch.zeros
FACTORIES = ("zeros", "ones", "empty", "rand", "randn")
METHODS = ("expand", "new_zeros", "new_ones", "new_full", "new_empty")


def _settling(read: Any) -> Any:
    return lambda known, *digits: known.tracer.settled(known, read, *digits)


class Known(fx.Proxy):
    """A value of the graph together with what it is on the example.

    What Python wants plainly, such as a loop's length, is given unless it depends on pixels, and noted as settled.
    """

    tracer: SizedTracer

    def value(self) -> Any:
        """Return what this is on the example, None where nothing is known of it."""
        return self.tracer.values.get(self.node)

    def __getattr__(self, k: str) -> Any:
        value = self.value()
        # The number of axes is the same for all images, and code looks tables up by it. Autocast and comparisons want a
        # device's type as text; where a tensor lies stays open.
        if isinstance(value, torch.device) or (k == "ndim" and isinstance(value, Tensor)):
            return getattr(value, k)
        if k.startswith("__array_"):  # NumPy's ways to values beside `__array__`
            raise AttributeError(k)
        named = getattr(type(value), "__match_args__", ()) if isinstance(value, tuple) else ()
        return cast(Any, self)[named.index(k)] if k in named else KnownAttribute(self, k)

    __len__, __index__, __int__, __float__, __bool__ = map(_settling, (len, operator.index, int, float, bool))
    __round__, __ceil__, __floor__, __trunc__ = map(_settling, (round, math.ceil, math.floor, math.trunc))

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.tracer.settled(self, Tensor.numpy)

    def __iter__(self) -> Iterator[fx.Proxy]:
        return self.tracer.iter(self)

    def __hash__(self) -> int:
        return id(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Stand for a copy with some values replaced from here on, as the tensor that is written to would."""
        self._now = self.tracer.create_proxy("call_function", with_item, (self, index, value), {})
        self.node = self._now.node


class KnownAttribute(Attribute, Known):
    """An attribute of a value, such as its shape."""

    def __getattr__(self, k: str) -> Any:
        return Known.__getattr__(self, k)

    def value(self) -> Any:
        """Return the same; no node is made for it."""
        return getattr(self.tracer.values.get(self.root.node), self.attr, None)

    @property
    def node(self) -> fx.Node:
        """The node that reads the attribute, made when it is asked for."""
        if self._node is None:
            self._now = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {})
            self._node = self._now.node
        return self._node

    @node.setter
    def node(self, node: fx.Node) -> None:
        self._node = node


@contextmanager
def sizes_from(tracer: SizedTracer) -> Iterator[None]:
    """Note calls such as `torch.zeros(x.shape[0], 8)` and `buffer.expand(x.shape[0], -1)` in the tracer's graph.

    `torch.tensor([x.shape[2], 1])` becomes a constant. `torch.is_tensor` and, outside torch and Python's own library,
    `isinstance` say of a value in the graph what they say of the value itself. Other threads are answered as ever.
    """
    is_tensor_method_or_property(Tensor.expand)  # keeps a list of what it finds at the first call
    script: Any = torch.jit.ScriptFunction
    with ExitStack() as stack:
        stack.enter_context(_kinds_of_values())
        replace_attribute(stack, torch, "is_tensor", lambda value: _is_of_kind(value, Tensor))
        if (cached := getattr(sys.modules.get("einops.einops"), "_reconstruct_from_shape", None)) is not None:
            stack.callback(cached.cache_clear)  # it keeps sizes, which keep tensors
        replace_attribute(stack, script, "__call__", _given(vars(script)["__call__"], _from_source))
        # torchvision's second transforms look classes up in tables.
        tables = getattr(sys.modules.get("torchvision.transforms.v2.functional._utils"), "_KERNEL_REGISTRY", {})
        for table in [each for each in tables.values() if Tensor in each]:
            table[Known] = table[Tensor]
            stack.callback(table.pop, Known)
        for name, instead in (*((name, _settled) for name in READERS), *((name, _noted) for name in FACTORIES)):
            replace_attribute(stack, torch, name, _given(getattr(torch, name), functools.partial(instead, tracer)))
        for name in METHODS:
            noted = functools.partial(_noted, tracer, method=name)
            replace_attribute(stack, Tensor, name, _given(getattr(Tensor, name), noted))
        yield


@contextmanager
def _kinds_of_values() -> Iterator[None]:
    """Let `isinstance` in modules of others say of a value in the graph what it says of the value itself."""
    every = [(name.partition(".")[0], code) for name, code in list(sys.modules.items()) if type(code) is ModuleType]
    modules = [vars(code) for package, code in every if package not in _UNASKED]
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


def replace_attribute(stack: ExitStack, owner: Any, name: str, value: object) -> None:
    """Give an object another attribute until a stack is left."""
    stack.callback(*((setattr, owner, name, vars(owner)[name]) if name in vars(owner) else (delattr, owner, name)))
    setattr(owner, name, value)


def _is_of_kind(value: Any, kind: Any) -> bool:
    known = value.value() if builtins.isinstance(value, Known) else None
    return builtins.isinstance(value, kind) or (known is not None and builtins.isinstance(known, kind))


def _given(called: Callable[..., Any], instead: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is called by another where values of the graph are given: none are in other threads."""

    @functools.wraps(called)
    def call(*args: Any, **kwargs: Any) -> Any:
        return instead(called, *args, **kwargs) if proxies(args, kwargs) else called(*args, **kwargs)

    return call


def _from_source(called: Callable[..., Any], function: Any, *args: Any, **kwargs: Any) -> Any:
    source: Any = getattr(function, "_torchdynamo_inline", None) or functools.partial(called, function)
    return source(*args, **kwargs)


def _settled(tracer: SizedTracer, called: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not any(isinstance(tracer.values[each.node], Tensor) for each in proxies(args, kwargs)):
        args, kwargs = tracer.plain((args, kwargs))
    return called(*args, **kwargs)


def _noted(tracer: SizedTracer, called: Any, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
    if method is not None:
        return tracer.create_proxy("call_method", method, args, kwargs)
    made = _ZEROS if called is _EMPTY else called  # what is written into it is the same
    return tracer.create_proxy("call_function", made, args if len(args) < 2 else (args,), kwargs)


def proxies(*values: Any) -> list[fx.Proxy]:
    """Return what stands for values of a graph among others, however deep they lie."""
    found: list[fx.Proxy] = []
    fx.node.map_aggregate(values, lambda each: found.append(each) if isinstance(each, fx.Proxy) else None)
    return found
