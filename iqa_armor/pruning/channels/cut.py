"""Take channels out of a labelled network: stored tensors, layers' settings and numbers written in the graph."""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from iqa_armor.pruning.channels.labelling import Labelling
from iqa_armor.pruning.channels.labels import leaving, varying
from iqa_armor.pruning.channels.rewrite import rewrite

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def cut(traced: fx.GraphModule, labelling: Labelling, gone: Tensor) -> fx.GraphModule:
    """Return a copy of a labelled network without some channels: per label, `gone` is whether what it names goes."""
    duplicate = copy.deepcopy(traced)
    done = _cut_layers(duplicate, labelling, gone)
    for (name, axis), labels in labelling.sites.items():
        if name not in done:
            _shrink(duplicate, name, axis, ~gone[labels])
    for name, labels in labelling.whole.items():
        goes = leaving(labels, gone)
        for axis in varying(goes):
            _shrink(duplicate, name, axis, ~goes.flatten())
    for module in duplicate.modules():
        _restate(module)
    originals = {node.name: node for node in traced.graph.nodes}
    for node in list(duplicate.graph.nodes):
        rewrite(node, originals[node.name], labelling, gone)
    duplicate.graph.lint()
    duplicate.recompile()
    return duplicate


def _cut_layers(network: fx.GraphModule, labelling: Labelling, gone: Tensor) -> set[str]:
    """Cut plain convolutions and linear layers with torch-pruning, in place; return the names of their tensors."""
    import torch_pruning as tp

    done: set[str] = set()
    for path, layer in network.named_modules():
        if type(layer) is nn.Linear:
            reads, makes = tp.prune_linear_in_channels, tp.prune_linear_out_channels
        elif type(layer) in _PLAIN and layer.groups == 1:  # grouped ones lose channels in both ways at once
            reads, makes = tp.prune_conv_in_channels, tp.prune_conv_out_channels
        else:
            continue
        sides = [labelling.sites.get((f"{path}.weight", axis)) for axis in (1, 0)]
        if any(labels is None for labels in sides):
            continue  # it is not called, or it is held under another name
        for cut_side, labels in zip((reads, makes), sides, strict=True):
            leave = torch.nonzero(gone[labels]).flatten().tolist()
            if leave:
                cut_side(layer, leave)
        done |= {f"{path}.weight", f"{path}.bias"}
    return done


def _shrink(network: nn.Module, name: str, axis: int, stays: Tensor) -> None:
    if bool(stays.all()):
        return
    path, _, attribute = name.rpartition(".")
    owner = network.get_submodule(path)
    tensor = getattr(owner, attribute)
    smaller = tensor.detach().index_select(axis, torch.nonzero(stays).flatten().to(tensor.device)).contiguous()
    is_parameter = isinstance(tensor, nn.Parameter)
    setattr(owner, attribute, nn.Parameter(smaller, tensor.requires_grad) if is_parameter else smaller)


def _restate(module: nn.Module) -> None:
    """Let a layer's settings say what its weights are."""
    weight: Any = getattr(module, "weight", None)
    layer: Any = module
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
