"""Which dotted module paths a stored graph may use."""

import keyword
import re
from collections.abc import Iterable

from torch import fx, nn

from iqa_armor.artifact.limits import MAX_NAME, FormatError, shown

# A Python identifier, or the index of a module in a Sequential; RegNet names modules `block1-0`. What is no
# identifier reaches generated code only inside quotes: getattr(..., "block1-0").
ATOM = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*|[0-9]{1,6}")


_GRAPH = fx.Graph()
_GRAPH.output(_GRAPH.placeholder("images"))
# The attributes that every module has.
RESERVED = frozenset(dir(fx.GraphModule(nn.Module(), _GRAPH))) | frozenset(dir(nn.Module()))


def check_path(path: object) -> str:
    """Return a dotted module path whose every part is an ordinary name or an index."""
    if not isinstance(path, str) or not 0 < len(path) <= MAX_NAME:
        raise FormatError(f"{shown(path)} is no module path")
    for part in path.split("."):
        if not ATOM.fullmatch(part) or keyword.iskeyword(part) or part.startswith("__") or part in RESERVED:
            raise FormatError(f"{shown(path)} is no module path: {shown(part)} is not allowed as a name in it")
    # fx derives the names of local variables from paths; one called `self` would hide the network.
    if re.sub(r"[^a-z]", "", path.lower()) == "self":
        raise FormatError(f"{shown(path)} is no module path: it would hide the network itself")
    return path


def check_disjoint(paths: Iterable[str]) -> None:
    """Check that no path lies inside another one."""
    known = set(paths)
    for path in known:
        parts = path.split(".")
        for count in range(1, len(parts)):
            if (outer := ".".join(parts[:count])) in known:
                raise FormatError(f"{shown(path)} lies inside {shown(outer)}, which is already complete")
