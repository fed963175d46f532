"""Turn a network into a graph whose leaves are torch.nn layers and our own blocks, and undo what that freezes."""

import copy
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from iqa_armor.errors import NETWORK_FAILURES, SurgeryError
from iqa_armor.graph.calls import arguments, layer_of, writes
from iqa_armor.graph.fold import fold_constants
from iqa_armor.graph.follow import MODES, follow
from iqa_armor.graph.functional import replace_call, restore_functions
from iqa_armor.graph.interpret import FIXED_SIZE, cause_of, record_sizes
from iqa_armor.graph.walk import mark_units

_FRESH = (operator.add, operator.sub, operator.mul, operator.truediv, torch.cat)  # make a tensor of their own
# Layers that drop, by the functions that do the same, and torch's own functions behind those.
_LAYER_OF: dict[Any, type[nn.Module]] = {
    **{getattr(functional, f"dropout{axes}"): getattr(nn, f"Dropout{axes}") for axes in ("", "1d", "2d", "3d")},
    **{functional.alpha_dropout: nn.AlphaDropout, functional.feature_alpha_dropout: nn.FeatureAlphaDropout},
    **{torch.dropout: nn.Dropout, torch.feature_dropout: nn.Dropout2d},
    **{torch.alpha_dropout: nn.AlphaDropout, torch.feature_alpha_dropout: nn.FeatureAlphaDropout},
}
_DROPPING = {layer: function for function, layer in reversed(_LAYER_OF.items())}
# Hooks that compute a weight before each call, what makes it plain, and where they name it.
_COMPUTING: tuple[tuple[type, Callable[..., Any], str], ...] = (
    (WeightNorm, remove_weight_norm, "name"),
    (SpectralNorm, remove_spectral_norm, "name"),
    (prune.BasePruningMethod, prune.remove, "_tensor_name"),
)


def keep_forced_dropout(traced: fx.GraphModule) -> None:
    """Make functions of dropout that is on in eval mode, in place; refuse other layers that stay in training mode."""
    for node in list(traced.graph.nodes):
        layer = layer_of(traced, node)
        if layer is None or not layer.training:
            continue
        if type(layer) in _DROPPING:
            node.op, node.target = "call_function", _DROPPING[type(layer)]
            node.kwargs = {"p": layer.p, "training": True, "inplace": layer.inplace}
        elif _differs_in_training(layer):
            raise SurgeryError(
                f"layer {str(node.target)!r} ({type(layer).__name__}) stays in training mode when the network is put "
                "in eval mode; only dropout may, so leave the mode of other layers to train() and eval()"
            )
    traced.delete_all_unused_submodules()
    traced.recompile()


def bake_weights(traced: fx.GraphModule) -> None:
    """Make weights that are computed (normalization, masks), and batch norms that are synchronised, plain, in place."""
    for name, module in list(traced.named_modules()):
        if parametrize.is_parametrized(module):
            # The class with the computed weight is one of the original's own; taking that away must not reach it.
            own: Any = type(module)
            module.__class__ = type(own.__name__, own.__bases__, dict(vars(own)))
            for weight in list(module.parametrizations):
                parametrize.remove_parametrizations(module, weight, leave_parametrized=True)
        for hook in list(module._forward_pre_hooks.values()):
            for kind, bake, named in _COMPUTING:
                if isinstance(hook, kind):
                    bake(module, getattr(hook, named))
        if isinstance(module, nn.SyncBatchNorm):
            settings = (module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
            plain = nn.BatchNorm2d(*settings).train(module.training)
            plain.load_state_dict(module.state_dict())
            traced.set_submodule(name, plain)


def restore_layers(traced: fx.GraphModule) -> None:
    """Make layers of dropout that is off, `detach()` of `data`, and drop what no score depends on, in place."""
    for node in reversed(traced.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output") and _is_idle(traced, node):
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    for node in [each for each in traced.graph.nodes if each.op == "call_function"]:
        if node.target is getattr and node.args[1:] == ("data",):
            node.op, node.target, node.args = "call_method", "detach", node.args[:1]
        elif node.target in _LAYER_OF:
            given = arguments(node)
            if given.get("training", given.get("train")) is False:  # one that drops always stays
                name = f"dropout_{node.name}"
                traced.add_submodule(name, _LAYER_OF[node.target](given["p"], inplace=given.get("inplace", False)))
                replace_call(traced, node, name, given["input"])
    traced.graph.lint()
    traced.recompile()


def _is_idle(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node that nothing reads leaves nothing behind either, such as in a tensor that others read."""
    if not writes(traced, node):
        return True
    source, layer = node.all_input_nodes[0], layer_of(traced, node.all_input_nodes[0])
    if len(source.users) > 1 or node.kwargs.get("out") is not None:
        return False
    is_made_there = source.target in _FRESH or (layer is not None and any(True for _ in layer.parameters()))
    return is_made_there or (writes(traced, source) and _is_idle(traced, source))


def _differs_in_training(layer: nn.Module) -> bool:
    is_random = type(layer).__name__ in ("RReLU", "StochasticDepth") or isinstance(layer, nn.modules.dropout._DropoutNd)
    return is_random or bool(getattr(layer, "track_running_stats", False) or getattr(layer, "dropout", 0))


def trace(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace a deep copy of a network in eval mode and give every node its size; names of parameters stay.

    Dropout that is off in eval mode, and functions that work with a module's own weights, become layers, so that
    fine-tuning and pruning have them; dropout that is on in eval mode stays on. What no image has a say in is computed
    once. `size_of` gives the sizes for the example, a normalised input (N, 3, H, W).

    Raises SurgeryError, with the line that broke, if the network cannot be traced whole, keeps another layer than
    dropout in training mode, or fails on the example.
    """
    with evaluating(network):
        followed = follow(network, example)  # the network itself: hooks that it has set hold on to it, not to a copy
        try:
            # Such as the weights that weight normalization leaves at a layer.
            held = [each for module in followed.modules() for each in vars(module).values() if isinstance(each, Tensor)]
            traced = copy.deepcopy(followed, {id(each): each.detach().clone() for each in held if not each.is_leaf})
        except NETWORK_FAILURES as error:
            raise SurgeryError(f"{type(network).__name__} cannot be copied: {cause_of(error)}") from error
    modes = followed.meta.pop(MODES)
    for name, module in traced.named_modules():
        module._forward_hooks.clear()  # what they did is in the graph
        module.training = modes.get(name, False)
    bake_weights(traced)
    keep_forced_dropout(traced)
    restore_layers(traced)
    fold_constants(traced.eval(), example)
    record_sizes(traced, example)
    restore_functions(traced)
    if not traced.graph.output_node().all_input_nodes:
        raise SurgeryError(f"what {type(network).__name__} gives does not depend on the image; return its scores")
    traced.eval().graph.lint()
    traced.recompile()
    if not isinstance(network, fx.GraphModule):
        mark_units(traced)
        return traced
    notes = {node.name: node.meta for node in network.graph.nodes}
    for node in traced.graph.nodes:
        before = notes.get(node.name, {})
        node.meta.update({key: before[key] for key in ("unit", "line") if key in before})
    traced.meta.update({key: value for key, value in network.meta.items() if key == FIXED_SIZE})
    return traced


def lay_out(traced: nn.Module) -> None:
    """Lay weights and buffers in memory as their file gives them; another order rounds sums otherwise."""
    for held in (*traced.parameters(), *traced.buffers()):
        if held.layout == torch.strided and not held.is_contiguous():
            held.data = held.detach().contiguous()


def trace_shared(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Return the graph of a network in eval mode with its own layers, not copies; example and errors as in `trace`."""
    with evaluating(network):
        traced = follow(network, example)
        record_sizes(traced, example)
    return traced


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode and give every layer its own mode back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
