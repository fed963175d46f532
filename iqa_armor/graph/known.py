"""What stands for a value of a graph while a network is followed: it knows what the value is on the example."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx
from torch.fx.proxy import Attribute

from iqa_armor.graph.interpret import with_item

if TYPE_CHECKING:
    from iqa_armor.graph.tracer import SizedTracer


def _settling(read: Any) -> Any:
    return lambda known, *digits: known.tracer.settled(known, read, *digits)


class Known(fx.Proxy):
    """A value of the graph together with what it is on the example.

    What Python wants as a plain value (the condition of an `if`, the length of a loop, the side of a window) is
    given, and noted as settled: the graph holds for inputs that give the same. Values of pixels are never given.
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

    __len__, __index__, __int__, __float__ = map(_settling, (len, operator.index, int, float))
    __round__, __ceil__, __floor__, __trunc__ = map(_settling, (round, math.ceil, math.floor, math.trunc))

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.tracer.settled(self, Tensor.numpy)

    def __iter__(self) -> Iterator[fx.Proxy]:
        return self.tracer.iter(self)

    def __bool__(self) -> bool:
        return bool(self.tracer.settled(self, bool))

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
