"""Take channels out of a labelled network: stored tensors, layers' settings and numbers written in the graph."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from iqa_armor.graph.calls import plain_name
from iqa_armor.pruning.channels.labelling import Labelling
from iqa_armor.pruning.channels.labels import kept_labels, leaving, varying
from iqa_armor.pruning.channels.zero import restore_sum

PIECES = ("chunk", "split", "split_with_sizes", "tensor_split")
INDEXED = ("getitem", "narrow", "select")
LAYERS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "layer_norm")
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Holders = list[tuple[nn.Module, str]]  # modules that have a tensor, each with the attribute's name


def _sizes(before: fx.Node, labelling: Labelling, gone: Tensor) -> tuple[torch.Size, torch.Size]:
    labels = labelling.labels[before]
    return labels.shape, kept_labels(labels, gone).shape


def _rewrite_unflatten(node: fx.Node, before: fx.Node, labelling: Labelling, gone: Tensor) -> None:
    old, new = _sizes(before, labelling, gone)
    if old == new:
        return
    axis, sizes = int(node.args[1]) % (len(old) - len(node.args[2]) + 1), node.args[2]  # type: ignore[arg-type]
    pairs = zip(sizes, old[axis:], new[axis:], strict=False)  # type: ignore[arg-type]
    node.args = (node.args[0], node.args[1], tuple(b if s == a else s for s, a, b in pairs))


def _rewrite_pieces(node: fx.Node, before: fx.Node, labelling: Labelling, gone: Tensor) -> None:
    """Write a split into pieces with the pieces' own lengths."""
    labels = labelling.labels[before]
    axis = int(node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0))  # type: ignore[arg-type]
    lengths = [kept_labels(part, gone).shape[axis] for part in labels]
    if lengths != [part.shape[axis] for part in labels]:
        node.op, node.target, node.kwargs = "call_function", torch.split, {}
        node.args = (node.args[0], lengths, axis)


def _rewrite_index(node: fx.Node, before: fx.Node, labelling: Labelling, gone: Tensor) -> None:
    labels = labelling.labels.get(before.all_input_nodes[0])
    if not isinstance(labels, Tensor):
        return
    goes = leaving(labels, gone)
    for axis in varying(goes):
        stays = (~goes.flatten()).long()
        new = torch.cat([torch.zeros(1, dtype=torch.long), stays.cumsum(0)]).tolist()  # position → position
        if plain_name(node) == "getitem":
            node.args = (node.args[0], _indexed(node.args[1], axis, new, labels.ndim))
        elif len(node.args) > 2 and int(node.args[1]) % labels.ndim == axis:  # type: ignore[arg-type]
            start = new[int(node.args[2]) % labels.shape[axis]]  # type: ignore[arg-type]
            rest = [new[int(node.args[2]) + int(node.args[3])] - start] if plain_name(node) == "narrow" else []  # type: ignore[arg-type]
            node.args = (*node.args[:2], start, *rest)


def _indexed(index: Any, axis: int, new: list[int], ndim: int) -> Any:
    """Return an index whose part for one axis is written in new positions."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        missing = ndim - sum(part is not None for part in parts) + 1
        parts[place : place + 1] = [slice(None)] * missing
    places = [place for place, part in enumerate(parts) if part is not None]
    if axis < len(places):
        parts[places[axis]] = _moved(parts[places[axis]], new)
    return tuple(parts)


def _moved(part: Any, new: list[int]) -> Any:
    length = len(new) - 1
    if isinstance(part, slice) and part.step in (None, 1):
        bounds = [
            bound if not isinstance(bound, int) else new[min(length, bound if bound >= 0 else max(0, bound + length))]
            for bound in (part.start, part.stop)
        ]
        return slice(*bounds)
    return new[part % length] if isinstance(part, int) else part


def _rewrite_layer(node: fx.Node, before: fx.Node, labelling: Labelling, gone: Tensor) -> None:
    old, new = _sizes(before.all_input_nodes[0], labelling, gone)
    name, place, axis = ("normalized_shape", 1, -1) if plain_name(node) == "layer_norm" else ("groups", 6, 1)
    given = node.kwargs.get(name, node.args[place] if len(node.args) > place else None)
    if given is None or isinstance(given, fx.Node) or old[axis] == new[axis]:
        return
    if name == "groups" and (given != old[axis] or given == 1):
        return  # not depthwise
    value: Any = new[axis] if name == "groups" else (new[axis],)
    if name in node.kwargs:
        node.kwargs = {**node.kwargs, name: value}
    else:
        node.args = (*node.args[:place], value, *node.args[place + 1 :])


def _rescale_attention(node: fx.Node, before: fx.Node, labelling: Labelling, gone: Tensor) -> None:
    """Divide by the root of the width that queries had."""
    old, new = _sizes(before.all_input_nodes[0], labelling, gone)
    if old[-1] != new[-1]:
        node.kwargs = {"scale": 1 / math.sqrt(old[-1]), **node.kwargs}


# What lets the numbers written in a call of a copied graph say the new sizes, in place, by what it calls: of the call,
# the same node of the labelled original, and per label whether what it names goes.
_REWRITERS: dict[str, Callable[[fx.Node, fx.Node, Labelling, Tensor], None]] = {
    **dict.fromkeys(("mean", "sum"), restore_sum),
    "scaled_dot_product_attention": _rescale_attention,
    "unflatten": _rewrite_unflatten,
    **dict.fromkeys(LAYERS, _rewrite_layer),
    **dict.fromkeys(PIECES, _rewrite_pieces),
    **dict.fromkeys(INDEXED, _rewrite_index),
}


def cut(traced: fx.GraphModule, labelling: Labelling, gone: Tensor) -> fx.GraphModule:
    """Return a copy of a labelled network without what is `gone` (per label); relabelling mends sizes in reshapes."""
    duplicate = copy.deepcopy(traced)
    holders = _holders(duplicate)
    done = _cut_layers(duplicate, labelling, gone, holders)
    for (name, axis), labels in labelling.sites.items():
        if name not in done:
            _shrink(holders[name], axis, ~gone[labels])
    for name, labels in labelling.whole.items():
        goes = leaving(labels, gone)
        for axis in varying(goes):
            _shrink(holders[name], axis, ~goes.flatten())
    for module in duplicate.modules():
        _restate(module)
    originals = {node.name: node for node in traced.graph.nodes}
    for node in list(duplicate.graph.nodes):
        if node.op in ("call_function", "call_method") and (rewrite := _REWRITERS.get(plain_name(node))):
            rewrite(node, originals[node.name], labelling, gone)
    duplicate.graph.lint()
    duplicate.recompile()
    return duplicate


def _holders(network: nn.Module) -> dict[str, Holders]:
    """Return by name who holds a stored tensor: several layers may share one."""
    found, by_tensor = dict[str, Holders](), dict[int, Holders]()
    for path, module in network.named_modules():
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            found[f"{path}.{attribute}".lstrip(".")] = holders = by_tensor.setdefault(id(tensor), [])
            holders.append((module, attribute))
    return found


def _cut_layers(network: fx.GraphModule, labelling: Labelling, gone: Tensor, holders: dict[str, Holders]) -> set[str]:
    """Cut plain convolutions and linear layers with torch-pruning, in place; return the names of their tensors."""
    import torch_pruning as tp

    done: set[str] = set()
    for path, layer in network.named_modules():
        if type(layer) not in _PLAIN or getattr(layer, "groups", 1) > 1:
            continue  # grouped ones lose channels in both ways at once
        sides = [labelling.sites.get((f"{path}.weight", axis)) for axis in (0, 1)]
        names = [f"{path}.{name}" for name, _ in layer.named_parameters()]
        if any(labels is None for labels in sides) or any(len(holders[name]) > 1 for name in names):
            continue  # it is not called, or it shares with others
        kind = "linear" if type(layer) is nn.Linear else "conv"
        for side, labels in zip(("out", "in"), sides, strict=True):
            if leave := torch.nonzero(gone[labels]).flatten().tolist():
                getattr(tp, f"prune_{kind}_{side}_channels")(layer, leave)
        done.update(names)
    return done


def _shrink(holders: Holders, axis: int, stays: Tensor) -> None:
    if bool(stays.all()):
        return
    tensor = getattr(*holders[0])
    smaller = tensor.detach().index_select(axis, torch.nonzero(stays).flatten().to(tensor.device)).contiguous()
    smaller = nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller
    for owner, attribute in holders:
        setattr(owner, attribute, smaller)


def _restate(module: nn.Module) -> None:
    """Let a layer's settings say what its weights are."""
    layer: Any = module
    weight: Any = getattr(layer, "weight", None)
    is_depthwise = getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        layer.in_channels = weight.shape[0]
        layer.groups = layer.in_channels if is_depthwise else layer.groups
        layer.out_channels = weight.shape[1] * layer.groups
    elif isinstance(module, nn.modules.conv._ConvNd):
        multiplier = layer.out_channels // layer.groups
        layer.groups = weight.shape[0] // multiplier if is_depthwise else layer.groups
        layer.in_channels, layer.out_channels = weight.shape[1] * layer.groups, weight.shape[0]
    elif isinstance(module, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        known = [t for t in (weight, layer.running_mean) if t is not None]
        layer.num_features = len(known[0]) if known else layer.num_features
    elif isinstance(module, nn.LayerNorm) and weight is not None:
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        layer.num_channels = len(weight)
    elif isinstance(module, nn.PReLU):
        layer.num_parameters = len(weight)
