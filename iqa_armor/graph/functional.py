"""Turn functions that work with a network's own weights into layers, which pruning, training and files know."""

import operator
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from iqa_armor.graph.calls import arguments, layer_of
from iqa_armor.graph.interpret import size_of

Given = Mapping[str, Any]
TENSORS = ("weight", "bias", "running_mean", "running_var")
_FILTERS = ("stride", "padding", "dilation", "output_padding")


def restore_functions(traced: fx.GraphModule) -> None:
    """Replace calls of convolutions, linear maps and normalisations on stored weights by layers, in place.

    A layer takes the place of the module that has its weights, where that is free; calls alike become one layer's.
    """
    made: dict[tuple[object, ...], str] = {}
    replaced: set[fx.Node] = set()
    for node in [each for each in traced.graph.nodes if each.op == "call_function" and each.target in LAYERS_OF]:
        given = arguments(node)
        tensors = {name: given[name] for name in TENSORS if isinstance(given.get(name), fx.Node)}
        stored = {name: stored_at(traced, each) for name, each in tensors.items()}
        if (layer := _layer(node, given, stored)) is None:
            continue
        key = (*map(id, stored.values()), repr(layer))
        if key not in made:
            made[key] = _put(traced, node, layer, list(tensors.values()))
        replace_call(traced, node, made[key], given["input"])
        replaced.update(tensors.values())
    drop_unread(traced, replaced)


def stored_at(traced: fx.GraphModule, node: fx.Node) -> Any:
    """Return the attribute that a node reads, or None where it computes something."""
    return operator.attrgetter(str(node.target))(traced) if node.op == "get_attr" else None


def replace_call(traced: fx.GraphModule, node: fx.Node, layer: str, given: fx.Node) -> None:
    with traced.graph.inserting_after(node):
        call = traced.graph.call_module(layer, (given,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    traced.graph.erase_node(node)


def drop_unread(traced: fx.GraphModule, nodes: Collection[fx.Node]) -> None:
    """Take nodes that nothing reads out of a graph, in place, the last first, and attributes that only they read."""
    gone: set[str] = set()
    for node in [each for each in reversed(traced.graph.nodes) if each in nodes]:
        if not node.users:
            traced.graph.erase_node(node)
            gone.update({str(node.target)} if node.op == "get_attr" else ())
    called = {layer_of(traced, each) for each in traced.graph.nodes}
    for target in gone - {each.target for each in traced.graph.nodes}:
        path, _, name = target.rpartition(".")
        owner = traced.get_submodule(path)
        if owner not in called:
            delattr(owner, name)


def _layer(node: fx.Node, given: Given, stored: Given) -> nn.Module | None:
    """Return a layer that does what a call does, with the tensors it has, or None where there is none."""
    weight = stored.get("weight")
    is_plain = all(isinstance(each, Tensor) for each in stored.values())
    is_learned = all(isinstance(stored.get(name, weight), nn.Parameter) for name in ("weight", "bias"))
    rest = {name: value for name, value in given.items() if name not in (*TENSORS, "input")}
    computed: list[fx.Node] = []
    fx.node.map_arg(rest, computed.append)
    if not (is_plain and is_learned) or computed:
        return None
    if not isinstance(given["input"], fx.Node) or isinstance(given.get("weight"), Tensor):
        return None
    with torch.device("meta"):
        layer = LAYERS_OF[node.target](rest, stored, len(size_of(node) or ()))
    if layer is not None:
        for name, tensor in stored.items():
            setattr(layer, name, tensor)
    return layer


def _convolution(kind: Any, given: Given, stored: Given, _: int) -> nn.Module | None:
    weight, groups = stored["weight"], given.get("groups") or 1
    filters = {n: tuple(value) if isinstance(value, list) else value for n, value in given.items() if n in _FILTERS}
    one, other = weight.shape[:2]
    channels = (one, other * groups) if kind is nn.ConvTranspose2d else (other * groups, one)
    layer: nn.Module = kind(*channels, tuple(weight.shape[2:]), groups=groups, bias="bias" in stored, **filters)
    return layer


def _linear(_: Given, stored: Given, __: int) -> nn.Module | None:
    weight = stored["weight"]
    return nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in stored) if weight.ndim == 2 else None


def _batch_norm(given: Given, stored: Given, axes: int) -> nn.Module | None:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(axes)
    if kind is None or len(stored) < len(TENSORS) or given.get("training") is not False:
        return None
    with stored["weight"].device:  # its counter is its own
        return kind(len(stored["weight"]), eps=given.get("eps", 1e-5), momentum=given.get("momentum", 0.1))


def _layer_norm(given: Given, stored: Given, _: int) -> nn.Module | None:
    shape = given["normalized_shape"]
    if not isinstance(shape, tuple | list) or len(shape) != 1:
        return None
    return nn.LayerNorm(shape[0], eps=given.get("eps", 1e-5), bias="bias" in stored)


# What makes a layer of the settings and the stored tensors of a call, and of the number of axes of what it gives.
LAYERS_OF: dict[Any, Callable[[Given, Given, int], nn.Module | None]] = {
    functional.conv1d: partial(_convolution, nn.Conv1d),
    functional.conv2d: partial(_convolution, nn.Conv2d),
    functional.conv_transpose2d: partial(_convolution, nn.ConvTranspose2d),
    functional.linear: _linear,
    functional.batch_norm: _batch_norm,
    functional.layer_norm: _layer_norm,
}


def _put(traced: fx.GraphModule, node: fx.Node, layer: nn.Module, tensors: list[fx.Node]) -> str:
    """Register a layer, in the place of the module whose weights it has where that is free; return its name."""
    owners = {str(each.target).rpartition(".")[0] for each in tensors}
    owner = owners.pop() if len(owners) == 1 else ""
    inside = [each for each in traced.graph.nodes if owner and str(each.target).startswith(f"{owner}.") and each.users]
    readers = {user for each in inside for user in each.users}
    is_called = any(each.target == owner and each.op == "call_module" for each in traced.graph.nodes)
    is_own = set(inside) == set(tensors) and all(user.target is node.target for user in readers)
    if owner and is_own and not is_called:
        traced.set_submodule(owner, layer)
        return owner
    name = f"{node.name}_layer"
    traced.add_submodule(name, layer)
    return name
