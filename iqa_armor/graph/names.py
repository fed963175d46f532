"""Which names layers and weights of a graph module can have, and others for those that they cannot."""

import keyword
import operator
import re
from collections import Counter

from torch import fx, nn

from iqa_armor.errors import SurgeryError

# What is no identifier, such as `block1-0` or `1x1`, reaches generated code only in quotes: getattr(..., "1x1").
_ATOM = re.compile("[A-Za-z0-9_-]+")
_GRAPH = fx.Graph()
_GRAPH.output(_GRAPH.placeholder("images"))
# The attributes that every module has.
_RESERVED = frozenset(dir(fx.GraphModule(nn.Module(), _GRAPH))) | frozenset(dir(nn.Module()))


def is_allowed(part: str) -> bool:
    """Return whether a graph module, and the code that is generated for it, can have a part of a dotted path."""
    return bool(_ATOM.fullmatch(part)) and not (keyword.iskeyword(part) or part.startswith("__") or part in _RESERVED)


def hides_network(path: str) -> bool:
    """Return whether fx, which derives the names of local variables from paths, would call one of them `self`."""
    return re.sub(r"[^a-z]", "", path.lower()) == "self"


def allowed_path(path: str) -> str:
    """Return a dotted path, with another name in place of each part that is not allowed: `named_lambda` of `lambda`."""
    parts = path.split(".")
    if hides_network(path):
        parts[0] = f"named_{parts[0]}"
    spelled = [re.sub("[^A-Za-z0-9_-]", lambda found: f"u{ord(found[0]):x}", part) for part in parts]
    return ".".join(part if is_allowed(part) else f"named_{other}" for part, other in zip(parts, spelled, strict=True))


def graph_module(network: nn.Module, graph: fx.Graph, kind: str) -> fx.GraphModule:
    """Return a graph module of a network's own layers, renamed where it could not have them by their names."""
    named = [node for node in graph.nodes if node.op in ("call_module", "get_attr")]
    names = {str(node.target): allowed_path(str(node.target)) for node in named}
    if all(name == allowed for name, allowed in names.items()):
        return fx.GraphModule(network, graph, kind)
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise SurgeryError(f"two layers or weights would both be called {twice[0]}; rename one of them")
    parts = {allowed: operator.attrgetter(name)(network) for name, allowed in names.items()}
    for node in named:
        node.target = names[str(node.target)]
    made = fx.GraphModule(parts, graph, kind)
    made.training = network.training
    return made
