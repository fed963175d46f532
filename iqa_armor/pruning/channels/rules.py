"""What calls do to channels, by their kind; here those that make none: arithmetic, pooling, moving, reducing."""

import tomllib
from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import Any

import torch
from torch import Tensor, fx, nn

from iqa_armor.graph.calls import plain_name
from iqa_armor.pruning.channels import layers
from iqa_armor.pruning.channels.labelling import Call, Labelling
from iqa_armor.pruning.channels.labels import Labels, along, compressed, like, spread, varying, zeros
from iqa_armor.pruning.channels.zero import can_be_summed

_NAMES = tomllib.loads(resources.files("iqa_armor.pruning.channels").joinpath("kinds.toml").read_text("utf-8"))
FUNCTIONS: dict[str, str] = {name: kind for kind, names in _NAMES["calls"].items() for name in names.split()}
MODULES = {getattr(nn, name): kind for kind, names in _NAMES["layers"].items() for name in names.split()}
# Layers of other packages, which need not be installed.
BY_NAME = {"StochasticDepth": "elementwise", "DropPath": "elementwise", "Sqish": "elementwise"}


def kind_of(node: fx.Node, layer: nn.Module | None) -> str:
    """Return what a call does to channels, as `kinds.toml` names it; "unknown" where nothing is known of it."""
    if layer is not None:
        return MODULES.get(type(layer)) or BY_NAME.get(type(layer).__name__, "unknown")
    # An attribute of a tensor is its transpose.
    return "moves" if node.target is getattr else FUNCTIONS.get(plain_name(node), "unknown")


def elementwise(labelling: Labelling, call: Call) -> Labels:
    """Give every value the channel of the values it is computed from."""
    sources = call.sources[:1] if call.name in ("to", "type_as") else call.sources  # the other says but the kind
    found = [labelling.of(source) for source in sources if isinstance(labelling.values[source], Tensor)]
    if not found:
        return zeros(call.value)
    labels = found[0]
    for other in found[1:]:
        labels = _combined(labelling, labels, other)
    return labels.expand(call.value.shape)


def spatial(labelling: Labelling, call: Call) -> Labels:
    """Keep channels where they are, whatever happens to the axes behind them."""
    source, *others = call.sources
    for other in others:
        labelling.fix(labelling.of(other))
    labels = labelling.of(source)
    if set(varying(labels)) - {1}:
        return labelling.stay(call, f"{call.name} goes over channels")
    return like(call.value, lambda part: spread(along(labels, 1), 1, part.shape))


def moves(labelling: Labelling, call: Call) -> Labels:
    """Move labels as the values are moved, by the same call."""
    node, layer = call.node, call.layer
    first = node.args[0] if node.args else next(iter(node.kwargs.values()))
    if call.name == "pad" or call.name.endswith(("Pad1d", "Pad2d")):
        labels = labelling.of(call.sources[0])
        amounts = labelling.argument(call, "pad" if layer is None else "padding", 1)
        pairs = zip(amounts[::2], amounts[1::2], strict=True)  # from the last axis on
        if not {labels.ndim - 1 - place for place, pair in enumerate(pairs) if any(pair)} & set(varying(labels)):
            return compressed(labels).expand(call.value.shape)
    if call.name in ("channel_shuffle", "native_channel_shuffle", "ChannelShuffle"):
        # Channels at the same place of the groups that are shuffled go together, so that groups stay even.
        rows = along(labelling.of(call.sources[0]), 1).view(int(labelling.argument(call, "groups", 1)), -1)
        labelling.units.link(rows, rows[:1])
    moved = fx.node.map_arg(first, lambda source: _as_moved(labelling, source))
    rest = labelling.real(node.args[1:])
    kwargs = labelling.real({key: value for key, value in node.kwargs.items() if value is not first})
    return like(_again(node, layer, moved, rest, kwargs), lambda part: compressed(part).long().expand(part.shape))


def _as_moved(labelling: Labelling, source: fx.Node) -> Any:
    labels = labelling.of(source)
    # Some functions move only floating-point numbers; float64 holds labels exactly.
    moved = like(labels, lambda part: compressed(part).double().expand(part.shape))
    return labelling.values[source] if labels is None else moved


def _again(node: fx.Node, layer: nn.Module | None, moved: Any, rest: Any, kwargs: Any) -> Any:
    if layer is not None:
        return layer.forward(moved)
    if node.op == "call_method":
        # Labels need not be laid out as the values are, so a view of them may be a copy.
        return getattr(moved, "reshape" if node.target == "view" else str(node.target))(*rest, **kwargs)
    return node.target(moved, *rest, **kwargs)  # type: ignore[operator]


def reductions(labelling: Labelling, call: Call) -> Labels:
    """Drop axes; over channels only where a missing one would change what is left."""
    if len(call.sources) > 1 and isinstance(labelling.values[call.sources[1]], Tensor):  # the larger of two tensors
        return elementwise(labelling, call)
    return sums(labelling, call, is_sum=False)


def gated(labelling: Labelling, call: Call) -> Labels:
    """Join each channel of the first half with that of the second, which scales it."""
    axis = int(labelling.argument(call, "dim", 1, -1))
    return _combined(labelling, *labelling.of(call.sources[0]).chunk(2, axis))


def sums(labelling: Labelling, call: Call, *, is_sum: bool = True) -> Labels:
    """Drop axes by a sum, to which a missing channel adds 0, or a mean, which counts it; unless `is_sum`, by others."""
    source = call.sources[0]
    labels = labelling.of(source)
    given = labelling.argument(call, "dim", 2 if call.name in ("norm", "vector_norm") else 1)
    every = range(labels.ndim) if isinstance(given, bool) or given is None else given
    axes = tuple(axis % labels.ndim for axis in ((every,) if isinstance(every, int) else every))
    if not set(varying(labels)) & set(axes):
        kept = labels.amax(dim=axes, keepdim=True)
        return like(call.value, lambda part: kept if part.ndim == labels.ndim else kept.squeeze(axes))
    if not (is_sum and len(varying(labels)) == 1 and can_be_summed(labelling, call, axes)):
        return labelling.stay(call, f"{call.name} goes over channels")
    labelling.read(call, source, labels)
    if call.name in ("mean", "sum"):
        labelling.rescaled[call.node] = axes
    return zeros(call.value)


def along_axis(labelling: Labelling, call: Call) -> Labels:
    """Keep the shape, where every value depends on all others along one axis."""
    source = call.sources[0]
    labels = labelling.of(source)
    default = {"normalize": 1, "sort": -1, "argsort": -1, "topk": -1}.get(call.name)
    axis = labelling.argument(call, "dim", 2 if call.name in ("normalize", "topk") else 1, default)
    if axis is not None and int(axis) % labels.ndim not in varying(labels):
        return like(call.value, lambda part: compressed(labels).expand(part.shape))
    if call.name == "normalize" and len(varying(labels)) == 1 and can_be_summed(labelling, call, ()):
        labelling.read(call, source, labels)
        return labels
    return labelling.stay(call, f"{call.name} goes over channels")


def filled(labelling: Labelling, call: Call) -> Labels:
    """Let channels stay where a tensor is made that is like another in shape alone."""
    return labelling.stay(call, f"{call.name} gives values that belong to no channel")


def _combined(labelling: Labelling, first: Tensor, second: Tensor) -> Tensor:
    """Return the labels of values that are computed from two tensors, place by place."""
    shape = tuple(torch.broadcast_shapes(first.shape, second.shape))  # type: ignore[no-untyped-call]
    first, second = (part.reshape((1,) * (len(shape) - part.ndim) + part.shape) for part in (first, second))
    for one, other in ((first, second), (second, first)):
        if any(one.shape[axis] == 1 for axis in varying(other)):  # one channel against many: it has to stay
            labelling.fix(one)
            return other.expand(shape)
    small, large = compressed(first), compressed(second)
    if not bool(large.any()) and small.numel() == 1:  # nothing of the one can go, the other is one channel
        return first.expand(shape)
    if not bool(small.any()) and large.numel() == 1:
        return second.expand(shape)
    labelling.units.link(small, large)
    return torch.where(small > 0, small, large).expand(shape)


RULES: dict[str, Callable[[Labelling, Call], Labels]] = {
    **{"elementwise": elementwise, "spatial": spatial, "moves": moves, "gated": gated, "filled": filled},
    **{"sums": sums, "reductions": reductions, "along": along_axis, "unknown": layers.lost},
    **{"convolution": layers.convolution, "transposed": partial(layers.convolution, is_transposed=True)},
    **{"linear": layers.linear, "product": layers.product, "attention": layers.attention, "prelu": layers.prelu},
    **{"layer_norm": layers.layer_norm, "group_norm": layers.group_norm},
    "batch_norm": partial(layers.scaled, axis=1, running_mean=1, running_var=2, weight=3, bias=4),
}
