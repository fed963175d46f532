"""Let torch make and expand plain tensors by sizes that stand in a graph, which it takes for no numbers."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import is_tensor_method_or_property

FACTORIES = ("zeros", "ones", "empty", "rand", "randn")
METHODS = ("expand", "new_zeros", "new_ones", "new_empty")


@contextmanager
def sizes_from(tracer: fx.Tracer) -> Iterator[None]:
    """Note calls such as `torch.zeros(x.shape[0], 8)` and `buffer.expand(x.shape[0], -1)` in the tracer's graph."""
    is_tensor_method_or_property(Tensor.expand)  # keeps a list of what it finds at the first call
    with ExitStack() as stack:
        for owner, names in ((torch, FACTORIES), (Tensor, METHODS)):
            for name in names:
                is_own = name in vars(owner)
                called = getattr(owner, name)
                setattr(owner, name, _noting(tracer, called, name if owner is Tensor else None))
                stack.callback(*((setattr, owner, name, called) if is_own else (delattr, owner, name)))
        yield


def _noting(tracer: fx.Tracer, called: Callable[..., Any], method: str | None) -> Callable[..., Any]:
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
