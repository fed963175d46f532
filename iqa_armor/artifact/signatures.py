"""What a table says of the arguments of a function, a method or a layer, and the check of a call against it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from iqa_armor.artifact.limits import MAX_INTEGER, FormatError, shown

# Sizes that multiply the elements of a tensor, and exponents, stay small.
GROWTH = 2**14
EXPONENT = 64


@dataclass(frozen=True)
class Signature:
    """The arguments that a stored graph may give a function, a Tensor method or a layer.

    Args:
        names: Its parameters in order, separated by spaces, for a method without the tensor itself; "?" marks those
            that may be left out.
        texts: Strings it accepts as arguments.
        pattern: Form of further strings it accepts.
        positional_only: Whether its parameters have no names, as those of operators.
        many: Whether it takes any number of positional arguments, as `view` does.
        largest: Bound on the size of numbers among its arguments.
        literals: Whether lists, tuples and slices are accepted; operators on them could build huge values.
        on_node: Whether the first argument must be the value of another node.
        needs_text: Whether the last argument must be a literal string.
    """

    names: str = ""
    texts: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    positional_only: bool = False
    many: bool = False
    largest: int = MAX_INTEGER
    literals: bool = True
    on_node: bool = False
    needs_text: bool = False

    def accepts_text(self, text: str) -> bool:
        """Return whether a string may be an argument."""
        return text in self.texts or (self.pattern is not None and self.pattern.fullmatch(text) is not None)

    def check(self, arguments: Sequence[object], keywords: Mapping[str, object]) -> None:
        """Check the arguments' number, keyword names and sizes."""
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
        # Infinity is fine where any float is: clamping and masking use it.
        elif type(value) is int or (type(value) is float and self.largest < MAX_INTEGER):
            self._check_size(value)

    def _check_size(self, value: float) -> None:
        if not abs(value) <= self.largest:  # so written, it refuses NaN too
            raise FormatError(f"{shown(value)} is too large; at most {self.largest} is allowed")
