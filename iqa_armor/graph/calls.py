"""Recognise what a node of a graph calls, and with which arguments; give layers names that a graph can have."""

import inspect
import keyword
import operator
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from iqa_armor.errors import SurgeryError

# Parameters of functions without a signature that Python could read.
CONVOLUTION = "input weight bias stride padding dilation groups"
TRANSPOSED = "input weight bias stride padding output_padding groups dilation"
_PARAMETERS: dict[Callable[..., Any], str] = {
    **dict.fromkeys((functional.conv1d, functional.conv2d, functional.conv3d), CONVOLUTION),
    **dict.fromkeys([getattr(functional, f"conv_transpose{axes}d") for axes in (1, 2, 3)], TRANSPOSED),
    functional.linear: "input weight bias",
    **dict.fromkeys((torch.dropout, torch.feature_dropout), "input p train"),
    **dict.fromkeys((torch.alpha_dropout, torch.feature_alpha_dropout), "input p train"),
}
_ON_MAPS = (nn.Conv2d, nn.ConvTranspose2d)
_SIZES = ("size", "dim", "ndimension", "numel", "nelement")
# What is no identifier, such as `block1-0` or `1x1`, reaches generated code only in quotes: getattr(..., "1x1").
_ATOM = re.compile("[A-Za-z0-9_-]+")
_GRAPH = fx.Graph()
_GRAPH.output(_GRAPH.placeholder("images"))
# The attributes that every module has.
_RESERVED = frozenset(dir(fx.GraphModule(nn.Module(), _GRAPH))) | frozenset(dir(nn.Module()))


def layer_of(traced: nn.Module, node: fx.Node) -> Any:
    """Return the module that a node calls, or None if it calls none."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def called_name(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls, or "" if it calls none."""
    return str(getattr(node.target, "__name__", node.target)) if node.op in ("call_function", "call_method") else ""


def plain_name(node: fx.Node) -> str:
    """Return what a node calls without underscores: "add" for `torch.add`'s and `.add_()`'s, "iadd" for `+=`."""
    name = str(getattr(node.target, "__name__", node.target))
    return (name.rstrip("_") if not name.startswith("__") else name.strip("_")).removeprefix("_")


def writes(traced: nn.Module, node: fx.Node) -> bool:
    """Return whether a node writes into a tensor that it is given."""
    layer, name = layer_of(traced, node), called_name(node)
    if layer is not None:
        return bool(getattr(layer, "inplace", False))
    is_operator = name == "setitem" or (name.startswith("i") and node.target is getattr(operator, name, None))
    return is_operator or bool(node.kwargs.get("inplace")) or node.kwargs.get("out") is not None or name.endswith("_")


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return a function call's arguments by name, with defaults where Python knows them, or raise a ValueError."""
    target: Any = node.target
    if target in _PARAMETERS:
        return {**dict(zip(_PARAMETERS[target].split(), node.args, strict=False)), **node.kwargs}
    bound = inspect.signature(target).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def argument(traced: fx.GraphModule, node: fx.Node, name: str, default: Any = None) -> Any:
    """Return an argument of a function call, or the attribute of that name of the layer that a node calls."""
    layer = layer_of(traced, node)
    return getattr(layer, name, default) if layer is not None else arguments(node).get(name, default)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a value, however deep in tuples and lists they lie, in their order."""
    if isinstance(value, Tensor):
        return [value]
    return [part for item in value for part in tensors_in(item)] if isinstance(value, tuple | list) else []


def is_convolution(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node is a convolution on maps."""
    if node.op == "call_module":
        return isinstance(layer_of(traced, node), _ON_MAPS)
    return node.op == "call_function" and node.target in (functional.conv2d, functional.conv_transpose2d)


def reads_size(node: fx.Node) -> bool:
    """Return whether a node reads the size or kind of a tensor, not its values."""
    if node.op == "call_method":
        return node.target in _SIZES
    return reads_kind(node) or (node.target is getattr and node.args[1] in ("shape", "ndim"))


def reads_kind(node: fx.Node) -> bool:
    """Return whether a node reads where a tensor lies or what its numbers are."""
    return node.target is getattr and node.args[1] in ("device", "dtype")


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
