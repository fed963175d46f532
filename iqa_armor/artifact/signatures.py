"""What tables say of functions, methods and layers of a stored graph, and the check of a call against it."""

import copy
import inspect
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import fx, nn

from iqa_armor.artifact.checks import MAX_INTEGER, ArgumentCheck, FormatError, checked_fields, shown
from iqa_armor.errors import NETWORK_FAILURES
from iqa_armor.randomness import Undrawn

# Sizes that multiply the elements of a tensor, and exponents, stay small.
GROWTH = 2**14
EXPONENT = 64


@dataclass(frozen=True)
class Signature:
    """The arguments that a stored graph may give a function, a Tensor method or a layer."""

    # Its parameters in order, separated by spaces, for a method without the tensor itself; "?" marks those that may be
    # left out.
    names: str = ""
    texts: Collection[str] = ()  # strings it accepts as arguments
    pattern: str = ""  # regular expression of further strings it accepts
    positional_only: bool = False  # whether its parameters have no names, as those of operators
    many: bool = False  # whether it takes any number of positional arguments, as `view` does
    largest: int = MAX_INTEGER  # bound on the size of numbers among its arguments
    literals: bool = True  # whether lists, tuples and slices are accepted; operators on them could build huge values
    on_node: bool = False  # whether the first argument must be the value of another node
    needs_text: bool = False  # whether the last argument must be a literal string

    def accepts_text(self, text: str) -> bool:
        return text in self.texts or (self.pattern != "" and re.fullmatch(self.pattern, text) is not None)

    def check(self, arguments: Sequence[object], keywords: Mapping[str, object]) -> None:
        names = self.names.replace("?", "").split()
        least = len(names) - self.names.count("?")
        allowed = () if self.positional_only else names[0 if self.many else len(arguments) :]
        if unknown := [name for name in keywords if name not in allowed]:
            raise FormatError(f"it takes no keyword {shown(unknown[0])} here")
        if len(arguments) > len(names) and not self.many:
            raise FormatError(f"it takes at most {len(names)} arguments, got {len(arguments)}")
        if len(arguments) + len(keywords) < least:
            raise FormatError(f"it needs {least} arguments, got {len(arguments) + len(keywords)}")
        if self.on_node and not (arguments and isinstance(arguments[0], fx.Node)):
            raise FormatError("its first argument must be the value of another node")
        if self.needs_text and not isinstance(arguments[-1], str):
            raise FormatError("its last argument must be a string")
        for value in (*arguments, *keywords.values()):
            self._check_value(value)

    def _check_value(self, value: object) -> None:
        if isinstance(value, list | tuple | slice):
            if not self.literals:
                raise FormatError(f"it takes tensors and numbers, got {shown(value)}")
            for part in (value.start, value.stop, value.step) if isinstance(value, slice) else value:
                self._check_value(part)
        # Infinity is fine where any float is: clamping, masking and padding use it, and no size can be infinite.
        elif type(value) is int or (type(value) is float and self.largest < MAX_INTEGER and not math.isinf(value)):
            self._check_size(value)

    def _check_size(self, value: float) -> None:
        if not abs(value) <= self.largest:  # so written, it refuses NaN too
            raise FormatError(f"{shown(value)} is too large; at most {self.largest} is allowed")


T = TypeVar("T")


class Table(Mapping[str, T]):
    """Entries by name; torchvision takes a second to import, so its own are looked up where one is asked for.

    `part` names the table in `artifact.vision` that holds these; `subject` gives the layer class or function that an
    entry stands for.
    """

    def __init__(self, entries: Mapping[str, T], part: str, subject: Callable[[T], object]) -> None:
        self._entries, self._part, self._subject = entries, part, subject

    @cached_property
    def _vision(self) -> dict[str, T]:
        found: dict[str, T] = getattr(import_module("iqa_armor.artifact.vision"), self._part)
        return found

    @cached_property
    def _names(self) -> dict[object, str]:
        return {self._subject(entry): name for name, entry in self._entries.items()}

    def __getitem__(self, name: str) -> T:
        return self._vision[name] if name.startswith("torchvision.") else self._entries[name]

    def __iter__(self) -> Iterator[str]:
        yield from (*self._entries, *self._vision)

    def __len__(self) -> int:
        return len(self._entries) + len(self._vision)

    def name_of(self, subject: Any) -> str | None:
        """Return the name of a layer class or function, None for one that cannot be stored."""
        if str(getattr(subject, "__module__", "")).startswith("torchvision."):
            return next((name for name, entry in self._vision.items() if self._subject(entry) is subject), None)
        return self._names.get(subject)


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
            with torch.device("meta"), Undrawn():
                return self.kind(**arguments)
        except NETWORK_FAILURES as error:
            raise FormatError(f"it cannot be built: {shown(str(error))}") from error


def layers_of(
    fields: Fields, *kinds: type[nn.Module], keywords: tuple[str, ...] = ("input",)
) -> dict[str, StoredLayer]:
    """Return the entries of layers of torch.nn that are built and called alike, by their full names."""
    return {f"torch.nn.{kind.__name__}": StoredLayer(kind, fields, keywords) for kind in kinds}


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
