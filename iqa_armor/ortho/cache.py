"""Values derived from a layer's parameters, kept in eval mode only."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
# Bytes that a cache holds; it does not keep what is larger. Enough for 512 -> 1024 channels on 32 × 32 maps (1.1 GB).
DEFAULT_LIMIT = 2 * 2**30


def may_keep_tensors() -> bool:
    """Return whether tensors made now are real ones: while a graph is captured, those of one call stand for all."""
    return not torch.compiler.is_compiling() and type(torch.empty(0)) is Tensor


class DerivedCache:
    """Least-recently-used store of values computed from parameters; safe in threads; copies and pickles are empty."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._stamp: Hashable = None
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()
        self._building: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)

    @property
    def held_bytes(self) -> int:
        with self._lock:
            return sum(value.nbytes for value in self._values.values())

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._building.clear()

    def get(self, key: Hashable, parameters: tuple[Tensor, ...], build: Callable[[], T]) -> T:
        """Return the value of `key`, built anew where it is missing or the parameters changed since.

        Of several threads that miss a key one builds it, and the others wait; other keys are given meanwhile. The key
        is what the value depends on besides the parameters, e.g. the map size. In-place changes of these are seen by
        their version counter, which edits through `.data` do not advance. The `nbytes` of a value say its size.
        """
        if not may_keep_tensors():
            return build()
        stamp = tuple((id(each), each.data_ptr(), 0 if each.is_inference() else each._version) for each in parameters)
        with self._lock:
            building = self._building[key]
        with building:
            with self._lock:
                if stamp != self._stamp:
                    self._values.clear()
                    self._stamp = stamp
                if key in self._values:
                    self._values.move_to_end(key)
                    return self._values[key]  # type: ignore[no-any-return]
            # Tensors made in inference mode could never take part in an attack's backward pass.
            with torch.inference_mode(False), torch.no_grad():
                value: Any = build()
            with self._lock:
                if value.nbytes <= self.limit and stamp == self._stamp:
                    self._values[key] = value
                    while self.held_bytes > self.limit:
                        self._values.popitem(last=False)
            return value  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[type[DerivedCache], tuple[int]]:
        return DerivedCache, (self.limit,)


class CachingModule(nn.Module):
    """Module whose `cache` is dropped by train(), by loading a state and by a move to another device or type."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = DerivedCache()

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.cache.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.cache.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.cache.clear()
        super()._load_from_state_dict(*arguments)
