"""The layers that a stored graph may contain, each with its constructor arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from iqa_armor.artifact.checks import Check
from iqa_armor.artifact.refusal import Refusal, expect_fields, shown

# What constructors of layers raise when their arguments, each in its own range, do not go together.
CONSTRUCTOR_ERRORS = (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError, LookupError)


@dataclass(frozen=True)
class Field:
    """One constructor argument of a layer.

    Args:
        check: Returns the argument for a JSON value, or refuses it.
        read: Returns the argument's value in an existing layer; None reads the attribute of the same name.
    """

    check: Check
    read: Callable[[Any], object] | None = None


@dataclass(frozen=True)
class Leaf:
    """A class of layers that may be stored.

    Args:
        kind: The class itself; subclasses are not accepted in its place.
        fields: Constructor arguments by name.
        keywords: Names under which its forward accepts arguments.
        tensors: For classes whose construction costs memory or time: sizes of stored tensors (relative
            name to size) that must be in the file before it is built.
        on_meta: Whether the class can be built without memory.
    """

    kind: type[nn.Module]
    fields: Mapping[str, Field]
    keywords: tuple[str, ...] = ("input",)
    tensors: Callable[[dict[str, Any]], dict[str, tuple[int, ...]]] | None = None
    on_meta: bool = True

    def describe(self, module: nn.Module) -> dict[str, object]:
        """Return the constructor arguments of an existing layer as JSON values."""
        return {
            name: _as_json(field.read(module) if field.read else getattr(module, name))
            for name, field in self.fields.items()
        }

    def arguments(self, stored: object) -> dict[str, Any]:
        """Return checked constructor arguments.

        Raises:
            Refusal: If one is missing, unknown or out of range.
        """
        given = expect_fields(stored, frozenset(self.fields), "its constructor arguments")
        checked: dict[str, Any] = {}
        for name, field in self.fields.items():
            try:
                checked[name] = field.check(given[name])
            except Refusal as refusal:
                raise Refusal(f"{name} {refusal}") from refusal
        return checked

    def build(self, arguments: dict[str, Any]) -> nn.Module:
        """Return a new layer, on the meta device where the class allows it.

        Raises:
            Refusal: If the arguments do not go together.
        """
        try:
            if not self.on_meta:
                with torch.device("cpu"):
                    return self.kind(**arguments)
            with torch.device("meta"), _Undrawn():
                return self.kind(**arguments)
        except CONSTRUCTOR_ERRORS as error:
            raise Refusal(f"it cannot be built: {shown(str(error))}") from error


class _Undrawn(TorchFunctionMode):
    """Leaves first weights undrawn: they have no memory, and torch would import its compiler for them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the result of a function; of an initialization the tensor as it is."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _as_json(value: object) -> object:
    if isinstance(value, tuple | list):
        return [_as_json(part) for part in value]
    return value
