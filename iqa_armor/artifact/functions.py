"""The functions and methods that a stored graph may call, as `functions.toml` lists them, and arguments as JSON."""

import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import resources
from pkgutil import resolve_name
from typing import Any, TypeVar

import torch
from torch import fx

from iqa_armor.artifact.checks import MAX_ARGUMENT_DEPTH, MAX_INTEGER, MAX_LENGTH, FormatError, shown

T = TypeVar("T")
EXPONENT = 64
# Sizes that multiply the elements of a tensor, and exponents, stay small.
BOUNDS = {None: MAX_INTEGER, "growth": 2**14, "exponent": EXPONENT}
# The only objects of torch that may be arguments.
_NAMES = ["float16", "bfloat16", "float32", "float64", "complex64", "int8", "int16", "int32", "int64", "uint8", "bool"]
_FORMATS = ["contiguous_format", "channels_last", "preserve_format"]
ATOMS: dict[str, dict[str, object]] = {
    "float": {"inf": math.inf, "-inf": -math.inf, "nan": math.nan},
    "torch": {name: getattr(torch, name) for name in (*_NAMES, *_FORMATS)},
    "constant": {"ellipsis": Ellipsis},
}


@dataclass(frozen=True)
class Signature:
    """The arguments that a stored graph may give a function, a Tensor method or a layer."""

    # Its parameters in order, for a method without the tensor itself; "?" marks those that may be left out.
    names: str = ""
    texts: Collection[str] = ()  # strings it accepts as arguments
    pattern: str = ""  # regular expression of further strings it accepts
    positional_only: bool = False  # whether its parameters have no names, as those of operators
    many: bool = False  # whether it takes any number of positional arguments, as `view` does
    largest: int = MAX_INTEGER  # bound on the size of numbers among its arguments
    literals: bool = True  # whether lists, tuples and slices are accepted; operators on them could build huge values
    on_node: bool = False  # whether the first argument must be the value of another node
    needs_text: bool = False  # whether the last argument must be a literal string
    target: Callable[..., Any] | None = None  # the function itself

    def accepts_text(self, text: str) -> bool:
        return text in self.texts or (self.pattern != "" and re.fullmatch(self.pattern, text) is not None)

    def check(self, arguments: Sequence[object], keywords: Mapping[str, object]) -> None:
        names, given = self.names.replace("?", "").split(), len(arguments) + len(keywords)
        least = len(names) - self.names.count("?")
        allowed = () if self.positional_only else names[0 if self.many else len(arguments) :]
        if unknown := [name for name in keywords if name not in allowed]:
            raise FormatError(f"it takes no keyword {shown(unknown[0])} here")
        if len(arguments) > len(names) and not self.many:
            raise FormatError(f"it takes at most {len(names)} arguments, got {len(arguments)}")
        if given < least:
            raise FormatError(f"it needs {least} arguments, got {given}")
        if self.on_node and not (arguments and isinstance(arguments[0], fx.Node)):
            raise FormatError("its first argument must be the value of another node")
        if self.needs_text and not isinstance(arguments[-1], str):
            raise FormatError("its last argument must be a string")
        for value in (*arguments, *keywords.values()):
            self._check_value(value)

    def _check_value(self, value: Any) -> None:
        bounded = (int, float) if self.largest < MAX_INTEGER else (int,)
        if isinstance(value, list | tuple | slice):
            if not self.literals:
                raise FormatError(f"it takes tensors and numbers, got {shown(value)}")
            for part in (value.start, value.stop, value.step) if isinstance(value, slice) else value:
                self._check_value(part)
        # Infinity is fine where any float is: clamping, masking and padding use it, and no size can be infinite.
        elif type(value) in bounded and not (abs(value) <= self.largest or abs(value) == math.inf):  # NaN is refused
            raise FormatError(f"{shown(value)} is too large; at most {self.largest} is allowed")


class Table(Mapping[str, T]):
    """Entries by name; `of_vision` makes those of torchvision, which takes a second to import, when asked for one."""

    def __init__(
        self, entries: Mapping[str, T], of_vision: Callable[[], Mapping[str, T]], subject: Callable[[T], object]
    ) -> None:
        self._entries, self._of_vision, self._subject = entries, cache(of_vision), subject
        self._names = {subject(entry): name for name, entry in entries.items()}

    def __getitem__(self, name: str) -> T:
        return (self._of_vision() if name.startswith("torchvision.") else self._entries)[name]

    def __iter__(self) -> Iterator[str]:
        yield from (*self._entries, *self._of_vision())

    def __len__(self) -> int:
        return len(self._entries) + len(self._of_vision())

    def name_of(self, subject: Any) -> str | None:
        """Return the name of a layer class or function, None for one that cannot be stored."""
        if str(getattr(subject, "__module__", "")).startswith("torchvision."):
            return next((name for name, entry in self._of_vision().items() if self._subject(entry) is subject), None)
        return self._names.get(subject)


def _signature(row: Any) -> Signature:
    return Signature(row) if isinstance(row, str) else Signature(**{**row, "largest": BOUNDS[row.get("largest")]})


_ROWS = tomllib.loads(resources.files("iqa_armor.artifact").joinpath("functions.toml").read_text("utf-8"))
_SIGNATURES = {
    module: {name: _signature(row) for names, row in rows.items() for name in names.split()}
    for module, rows in _ROWS.items()
}
METHODS: dict[str, Signature] = _SIGNATURES.pop("torch.Tensor")


def functions_of(module: str) -> dict[str, Signature]:
    """Return the functions of a module by their full names."""
    owner, rows = resolve_name(module), _SIGNATURES[module]
    return {f"{module}.{name}": replace(signature, target=getattr(owner, name)) for name, signature in rows.items()}


_MODULES = (module for module in _SIGNATURES if module != "torchvision.ops")
FUNCTIONS: Table[Signature] = Table(
    {name: function for module in _MODULES for name, function in functions_of(module).items()},
    partial(functions_of, "torchvision.ops"),
    lambda function: function.target,
)


def encode_value(value: object, refer: Callable[[fx.Node], object]) -> object:
    """Return an argument of an fx node as a JSON value; `refer` gives what stands for another node."""
    if isinstance(value, fx.Node):
        return refer(value)
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, slice):
        return {"slice": [encode_value(part, refer) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [encode_value(part, refer) for part in value]}
    found = next(({kind: name} for kind, atoms in ATOMS.items() for name, atom in atoms.items() if value is atom), None)
    if found is None:
        raise FormatError(f"an argument of type {type(value).__name__} cannot be stored: {shown(value)}")
    return found


def decode_value(value: object, nodes: Sequence[fx.Node], signature: Signature, *, depth: int = 0) -> object:
    """Return the argument that parsed JSON, inside `depth` containers, stands for; it may refer to these nodes."""
    if depth > MAX_ARGUMENT_DEPTH:
        raise FormatError(f"arguments are nested more than {MAX_ARGUMENT_DEPTH} deep")
    if isinstance(value, str) and not signature.accepts_text(value):
        raise FormatError(f"it does not accept the string {shown(value)}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise FormatError(f"{shown(value)} is no argument")
    ((kind, content),) = value.items()
    if kind in ("list", "tuple", "slice"):
        if not isinstance(content, list) or len(content) > MAX_LENGTH:
            raise FormatError(f"a {kind} needs a JSON array of at most {MAX_LENGTH} values, got {shown(content)}")
        parts = [decode_value(part, nodes, signature, depth=depth + 1) for part in content]
        is_slice = len(parts) == 3 and all(type(part) is int or isinstance(part, fx.Node | None) for part in parts)
        if kind == "slice" and not is_slice:
            raise FormatError(f"a slice needs three numbers, got {shown(content)}")
        return slice(*parts) if kind == "slice" else tuple(parts) if kind == "tuple" else parts
    return _atom(kind, content, nodes)


def _atom(kind: str, content: object, nodes: Sequence[fx.Node]) -> object:
    if kind == "node":
        if type(content) is int and 0 <= content < len(nodes):
            return nodes[content]
        raise FormatError(f"{shown(content)} is no earlier node; a node may read only nodes before it")
    if isinstance(content, str) and content in ATOMS.get(kind, ()):
        return ATOMS[kind][content]
    raise FormatError(f"{shown({kind: content})} is no argument")
