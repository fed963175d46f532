"""What tables say of functions, methods and layers of a stored graph, and the check of a call against it."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar

from torch import fx

from iqa_armor.artifact.checks import MAX_INTEGER, FormatError, shown

# Sizes that multiply the elements of a tensor, and exponents, stay small.
GROWTH = 2**14
EXPONENT = 64


@dataclass(frozen=True)
class Signature:
    """The arguments that a stored graph may give a function, a Tensor method or a layer."""

    # Its parameters in order, separated by spaces, for a method without the tensor itself; "?" marks those that may be
    # left out.
    names: str = ""
    texts: tuple[str, ...] = ()  # strings it accepts as arguments
    pattern: re.Pattern[str] | None = None  # form of further strings it accepts
    positional_only: bool = False  # whether its parameters have no names, as those of operators
    many: bool = False  # whether it takes any number of positional arguments, as `view` does
    largest: int = MAX_INTEGER  # bound on the size of numbers among its arguments
    literals: bool = True  # whether lists, tuples and slices are accepted; operators on them could build huge values
    on_node: bool = False  # whether the first argument must be the value of another node
    needs_text: bool = False  # whether the last argument must be a literal string

    def accepts_text(self, text: str) -> bool:
        return text in self.texts or (self.pattern is not None and self.pattern.fullmatch(text) is not None)

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
