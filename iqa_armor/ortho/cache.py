"""Values derived from a layer's parameters, kept in eval mode only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn

T = TypeVar("T")
# Enough for the spectrum of 512 -> 1024 channels on 32 × 32 maps (1.1 GB).
DEFAULT_LIMIT = 2 * 2**30


class DerivedCache:
    """Least-recently-used store of values computed from parameters; copies and pickles are empty.

    Args:
        limit: Bytes it may hold; a larger value is computed anew at every use.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._stamp: Hashable = None
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """Bytes of the values held now."""
        return sum(size for _, size in self._values.values())

    def clear(self) -> None:
        """Drop every value."""
        self._values.clear()

    def get(self, key: Hashable, parameters: tuple[Tensor, ...], build: Callable[[], tuple[T, int]]) -> T:
        """Return the value of `key`, built anew where it is missing or the parameters changed since.

        Args:
            key: What the value depends on besides the parameters, e.g. the map size.
            parameters: Tensors it is derived from; in-place changes are seen by their version
                counter, which edits through `.data` do not advance.
            build: Returns the value and its size in bytes.
        """
        if torch.compiler.is_compiling():  # a captured graph must not hold what one process happened to have
            return build()[0]
        stamp = tuple(_stamp(parameter) for parameter in parameters)
        if stamp != self._stamp:
            self.clear()
            self._stamp = stamp
        if key in self._values:
            self._values.move_to_end(key)
            return cast(T, self._values[key][0])
        # Tensors made in inference mode could never take part in an attack's backward pass.
        with torch.inference_mode(False), torch.no_grad():
            value, size = build()
        if size <= self.limit:
            self._values[key] = (value, size)
            while self.held_bytes > self.limit:
                self._values.popitem(last=False)
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> DerivedCache:
        return DerivedCache(self.limit)

    def __reduce__(self) -> tuple[type[DerivedCache], tuple[int]]:
        return DerivedCache, (self.limit,)


class CachingModule(nn.Module):
    """Module whose `cache` is dropped by train(), by loading a state and by a move to another device or type."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = DerivedCache()

    def train(self, mode: bool = True) -> Self:
        """Set training mode; entering it drops the cache."""
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


def _stamp(parameter: Tensor) -> tuple[int, int, int]:
    version = 0 if parameter.is_inference() else parameter._version
    return id(parameter), parameter.data_ptr(), version
