"""Arguments of graph nodes as JSON, and which dotted module paths they may name."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import fx

from iqa_armor.artifact.checks import MAX_ARGUMENT_DEPTH, MAX_LENGTH, MAX_NAME, FormatError, shown
from iqa_armor.graph.calls import hides_network, is_allowed


def check_path(path: object) -> str:
    """Return a dotted module path whose every part is an ordinary name or an index."""
    if not isinstance(path, str) or not 0 < len(path) <= MAX_NAME:
        raise FormatError(f"{shown(path)} is no module path")
    for part in path.split("."):
        if not is_allowed(part):
            raise FormatError(f"{shown(path)} is no module path: {shown(part)} is not allowed as a name in it")
    if hides_network(path):
        raise FormatError(f"{shown(path)} is no module path: it would hide the network itself")
    return path


# The only objects of torch that may be arguments.
_NAMES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "int8", "int16", "int32", "int64", "uint8", "bool"),
    *("contiguous_format", "channels_last", "preserve_format"),
)
ATOMS: dict[str, dict[str, object]] = {
    "float": {"inf": math.inf, "-inf": -math.inf, "nan": math.nan},
    "torch": {name: getattr(torch, name) for name in _NAMES},
    "constant": {"ellipsis": Ellipsis},
}

Refer = Callable[[fx.Node], object]
AcceptText = Callable[[str], bool]


def encode_value(value: object, refer: Refer) -> object:
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


def decode_value(value: object, nodes: Sequence[fx.Node], accepts: AcceptText, *, depth: int = 0) -> object:
    """Return the argument that parsed JSON, inside `depth` containers, stands for.

    It may refer to the nodes before its own, and holds only strings that are accepted there.
    """
    if depth > MAX_ARGUMENT_DEPTH:
        raise FormatError(f"arguments are nested more than {MAX_ARGUMENT_DEPTH} deep")
    if isinstance(value, str) and not accepts(value):
        raise FormatError(f"it does not accept the string {shown(value)}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise FormatError(f"{shown(value)} is no argument")
    ((kind, content),) = value.items()
    if kind in ("list", "tuple", "slice"):
        if not isinstance(content, list) or len(content) > MAX_LENGTH:
            raise FormatError(f"a {kind} needs a JSON array of at most {MAX_LENGTH} values, got {shown(content)}")
        return _container(kind, content, [decode_value(part, nodes, accepts, depth=depth + 1) for part in content])
    return _atom(kind, content, nodes)


def _atom(kind: str, content: object, nodes: Sequence[fx.Node]) -> object:
    if kind == "node":
        if type(content) is int and 0 <= content < len(nodes):
            return nodes[content]
        raise FormatError(f"{shown(content)} is no earlier node; a node may read only nodes before it")
    if isinstance(content, str) and content in ATOMS.get(kind, ()):
        return ATOMS[kind][content]
    raise FormatError(f"{shown({kind: content})} is no argument")


def _container(kind: str, content: object, parts: list[object]) -> object:
    if kind != "slice":
        return parts if kind == "list" else tuple(parts)
    if len(parts) != 3 or not all(part is None or type(part) is int or isinstance(part, fx.Node) for part in parts):
        raise FormatError(f"a slice needs three numbers, got {shown(content)}")
    return slice(*parts)
