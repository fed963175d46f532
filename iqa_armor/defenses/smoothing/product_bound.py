"""A global Lipschitz bound of a network: what its layers can at most stretch, along its graph."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from iqa_armor.graph.calls import called_name, layer_of
from iqa_armor.graph.interpret import size_of
from iqa_armor.graph.trace import trace_shared
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.lipschitz import convolution_bound, norm_bound


@dataclass(frozen=True)
class ProductBound:
    """How far a network can at most move its output per unit of L2 change of its input, or why that is not known."""

    value: float | None
    problem: str = ""


class _Unknown(Exception):
    """A node without a rule."""


@torch.no_grad()
def product_bound(network: nn.Module, example: Tensor) -> ProductBound:
    """Return the product of the operator norms of a network's layers, in eval mode.

    Layers in a row multiply, branches that are added add, branches that are joined add in squares. What a layer can
    stretch most need not be what the layer before lets through, so the bound is sound and far from tight for a deep
    network. It holds for normalised inputs (N, 3, H, W) of the example's size. What cannot be traced is a SurgeryError.
    """
    traced = trace_shared(network, example)
    bounds: dict[fx.Node, float] = {}
    for node in traced.graph.nodes:
        given = [bounds[source] for source in node.all_input_nodes if source in bounds]
        if node.op == "output":
            return ProductBound(given[0])
        try:
            if node.op == "placeholder" or given:
                bounds[node] = _bound(traced, node, given) if given else 1.0
        except _Unknown as unknown:
            return ProductBound(None, f"not computed: node {node.name} ({unknown}) has no known bound")
    return ProductBound(None, "not computed: the network gives nothing")


def _bound(traced: fx.GraphModule, node: fx.Node, given: list[float]) -> float:
    layer, name = layer_of(traced, node), called_name(node)
    if layer is None:
        if name in ("add", "iadd", "add_") and not node.kwargs:
            if name != "add":
                _refuse_other_readers(node)
            times = sum(argument in node.all_input_nodes for argument in node.args)
            return sum(given) if len(given) == times else 2 * given[0]  # x + x
        if name == "cat":
            return math.sqrt(sum(bound**2 for bound in given))
        before, after = size_of(node.all_input_nodes[0]), size_of(node)
        if len(given) != 1 or not (before and after and before[0] == after[0]):  # one row per image has to stay
            raise _Unknown(name)
    factor = _factor(layer, name, node)
    if factor > 1 and getattr(layer, "inplace", False):
        _refuse_other_readers(node)
    return given[0] * factor


def _factor(layer: nn.Module | None, name: str, node: fx.Node) -> float:
    rule = RULES.get(name if layer is None else type(layer))
    if rule is None:
        raise _Unknown(name if layer is None else type(layer).__name__)
    return rule if isinstance(rule, float) else rule(layer, node)


def _refuse_other_readers(node: fx.Node) -> None:
    """Refuse what changes a tensor in place that others may read afterwards."""
    if len(node.all_input_nodes[0].users) > 1:
        raise _Unknown("in place")


def _of_convolution(layer: nn.Conv2d, _: fx.Node) -> float:
    if layer.padding_mode not in ("zeros", "circular"):
        raise _Unknown(f"Conv2d with {layer.padding_mode} padding")
    return convolution_bound(layer.weight, groups=layer.groups)


def _of_norm(layer: nn.BatchNorm2d, _: fx.Node) -> float:
    if layer.running_var is None:
        raise _Unknown("batch norm without running statistics")
    return norm_bound(layer)


def _of_maximum(layer: nn.MaxPool2d, _: fx.Node) -> float:
    # The root of the number of windows that a pixel can be in.
    sizes = [each if isinstance(each, tuple) else (each, each) for each in (layer.kernel_size, layer.stride)]
    if layer.dilation not in (1, (1, 1)):
        raise _Unknown("dilated maximum")
    return math.sqrt(math.prod(math.ceil(side / step) for side, step in zip(*sizes, strict=True)))


def _of_pooling(pool: nn.Module | None, node: fx.Node) -> float:
    # An average is separable: the norm of its matrix along rows times that along columns.
    before, after = size_of(node.all_input_nodes[0]) or (), size_of(node) or ()
    if len(before) != 4 or getattr(pool, "divisor_override", None):
        raise _Unknown("pooling of other than maps, or with a divisor")
    norm = 1.0
    for side in (0, 1):
        lines = torch.eye(before[2 + side], dtype=torch.float64)[:, None]
        if isinstance(pool, nn.AvgPool2d):
            given = (pool.kernel_size, pool.stride, pool.padding)
            kernel, step, padding = (each[side] if isinstance(each, tuple) else each for each in given)
            pooled = functional.avg_pool1d(lines, kernel, step, padding, pool.ceil_mode, pool.count_include_pad)
        else:
            pooled = functional.adaptive_avg_pool1d(lines, after[2 + side])
        norm *= float(torch.linalg.matrix_norm(pooled[:, 0], 2))
    return norm


def _of_mean(_: None, node: fx.Node) -> float:
    # Over all but the images: a projection shrunk by the root of the count.
    before, after = size_of(node.all_input_nodes[0]) or (), size_of(node) or ()
    return math.sqrt(math.prod(after) / math.prod(before))


# What activations, and what only moves numbers, can stretch at most, and rules for the rest, by layer or function.
RULES: dict[type[nn.Module] | str, float | Callable[[Any, fx.Node], float]] = {
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Softplus, nn.LogSigmoid, nn.Softsign), 1.0),
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d), 1.0),
    **dict.fromkeys(("relu", "relu_", "relu6", "tanh", "abs", "abs_", "dropout", "flatten", "view", "reshape"), 1.0),
    **dict.fromkeys(("squeeze", "unsqueeze", "contiguous", "permute", "transpose"), 1.0),
    **dict.fromkeys((nn.Sigmoid, "sigmoid"), 0.25),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _of_norm),
    **dict.fromkeys((nn.AvgPool2d, nn.AdaptiveAvgPool2d, "adaptive_avg_pool2d"), _of_pooling),
    **{StochasticDepth: 1.0, nn.Hardsigmoid: 1 / 6, nn.SiLU: 1.0999, nn.Hardswish: 1.5},
    "mean": _of_mean,
    nn.Conv2d: _of_convolution,
    nn.Linear: lambda layer, _: convolution_bound(layer.weight),
    nn.MaxPool2d: _of_maximum,
    # A block's pooling and reduction; what follows stretches nothing.
    RobustBlock: lambda block, node: _of_pooling(block, node) * convolution_bound(block.reduction.weight),
    nn.LeakyReLU: lambda layer, _: max(1.0, abs(layer.negative_slope)),
    nn.ELU: lambda layer, _: max(1.0, layer.alpha),
    nn.PReLU: lambda layer, _: max(1.0, float(layer.weight.abs().max())),
}
