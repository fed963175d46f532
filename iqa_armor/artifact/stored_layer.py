"""The layers that a stored graph may contain, each with its constructor arguments; those that are user code."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from iqa_armor.artifact.checks import ArgumentCheck, FormatError, checked_fields, shown
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
    """A class of layers that may be stored."""

    kind: type[nn.Module]  # the class itself; subclasses are not accepted in its place
    fields: Fields  # checks of its constructor arguments by name
    keywords: tuple[str, ...] = ("input",)  # names under which its forward accepts arguments
    # For classes whose construction costs memory or time: sizes of stored tensors (relative name to size) that must be
    # in the file before it is built.
    tensors: Callable[[dict[str, Any]], dict[str, tuple[int, ...]]] | None = None

    @property
    def signature(self) -> Signature:
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


SOURCE = "source"


def is_source(module: nn.Module) -> bool:
    """Return whether a module is to stay the user's own code."""
    return bool(getattr(module, "is_traced_whole", False))


@dataclass(frozen=True)
class SourceLayer(StoredLayer):
    """A module that is taken from the network that the user's code makes."""

    kind: type[nn.Module] = nn.Module
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """What a graph may give the module: any number of what its forward takes, by place or by name."""
        return Signature(" ".join(f"{name}?" for name in self.keywords))


def taken_from(source: nn.Module | None, path: str) -> tuple[StoredLayer, nn.Module]:
    """Return a copy of a module of the user's network, and how a graph may call it."""
    if source is None:
        raise FormatError("it is user code that is not in the file; name its source with --arch")
    try:
        found = source.get_submodule(path)
    except AttributeError as error:
        raise FormatError(f"the network of --arch has no module {shown(path)}") from error
    module = copy.deepcopy(found)
    module.is_traced_whole = True  # type: ignore[assignment]
    return SourceLayer(keywords=tuple(inspect.signature(type(module).forward).parameters)[1:]), module
