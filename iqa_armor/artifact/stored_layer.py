"""The layers that a stored graph may contain, each with its constructor arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from iqa_armor.artifact.checks import ArgumentCheck, checked_fields
from iqa_armor.artifact.limits import FormatError, shown
from iqa_armor.artifact.signatures import Signature
from iqa_armor.errors import NETWORK_FAILURES


@dataclass(frozen=True)
class Derived:
    """A constructor argument that a layer does not keep under its name: its check, and how it is read from a layer."""

    check: ArgumentCheck
    read: Callable[[Any], object]


Fields = Mapping[str, ArgumentCheck | Derived]


@dataclass(frozen=True)
class StoredLayer:
    """A class of layers that may be stored.

    Args:
        kind: The class itself; subclasses are not accepted in its place.
        fields: Checks of its constructor arguments by name.
        keywords: Names under which its forward accepts arguments.
        tensors: For classes whose construction costs memory or time: sizes of stored tensors (relative
            name to size) that must be in the file before it is built.
    """

    kind: type[nn.Module]
    fields: Fields
    keywords: tuple[str, ...] = ("input",)
    tensors: Callable[[dict[str, Any]], dict[str, tuple[int, ...]]] | None = None

    @property
    def signature(self) -> Signature:
        """What a graph may give the layer."""
        first, *others = self.keywords
        return Signature(" ".join([first, *(f"{name}?" for name in others)]))

    def describe(self, module: nn.Module) -> dict[str, object]:
        """Return the constructor arguments of an existing layer as JSON values."""
        return {
            name: _as_json(field.read(module) if isinstance(field, Derived) else getattr(module, name))
            for name, field in self.fields.items()
        }

    def arguments(self, stored: object) -> dict[str, Any]:
        """Return constructor arguments, each checked on its own."""
        checks = {name: field.check if isinstance(field, Derived) else field for name, field in self.fields.items()}
        return checked_fields(stored, checks, "its constructor arguments")

    def build(self, arguments: dict[str, Any]) -> nn.Module:
        """Return a new layer on the meta device, or refuse arguments that do not go together."""
        try:
            with torch.device("meta"), _Undrawn():
                return self.kind(**arguments)
        except NETWORK_FAILURES as error:
            raise FormatError(f"it cannot be built: {shown(str(error))}") from error


def layers_of(
    fields: Fields, *kinds: type[nn.Module], keywords: tuple[str, ...] = ("input",)
) -> dict[str, StoredLayer]:
    """Return the entries of layers of torch.nn that are built and called alike, by their full names."""
    return {f"torch.nn.{kind.__name__}": StoredLayer(kind, fields, keywords) for kind in kinds}


class _Undrawn(TorchFunctionMode):
    """Leaves first weights undrawn: they have no memory, and torch would import its compiler for them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _as_json(value: object) -> object:
    return [_as_json(part) for part in value] if isinstance(value, tuple | list) else value
