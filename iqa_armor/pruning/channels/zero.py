"""What stands where a channel is zero (0 behind a ReLU, 1 behind an exponential), which sums over channels get back."""

import math
import operator

import torch
from torch import Tensor, fx

from iqa_armor.graph.calls import plain_name, tensors_in, writes
from iqa_armor.graph.interpret import call_node
from iqa_armor.pruning.channels.labelling import Call, Labelling, Rest
from iqa_armor.pruning.channels.labels import Labels, kept_labels, varying

_SCALING = {
    **dict.fromkeys(("mul", "multiply", "imul"), 2),  # by how many of the arguments, the first, a zero stays zero
    **dict.fromkeys(("div", "divide", "truediv", "itruediv"), 1),
}
Made = fx.Node | float  # what stands somewhere: a node that computes it, or a number
_PASSING = ("moves", "spatial", "sums", "reductions", "along", "gated")
_SAME = ("mean", "amax", "amin", "max", "min", "median")  # of a number many times
_FILLING = ("softmax", "log_softmax", "softmin", "logsumexp", "logcumsumexp", "Softmax", "LogSoftmax")


def rest_of(labelling: Labelling, call: Call, kind: str, labels: Labels) -> Rest:
    """Return what a call gives for channels that its sources have as zero where layers made them.

    Layers' own numbers for a channel go with it; what a stored tensor adds to a zero is not known.
    """
    known = {source: None if source.op == "get_attr" else labelling.rest.get(source, 0.0) for source in call.sources}
    found = {source: rest for source, rest in known.items() if has_channels(labelling, source)}
    numbers = set(found.values())
    if kind == "elementwise":
        return _elementwise(labelling, call, found, labels)
    if kind in ("product", "attention"):
        return 0.0 if 0.0 in numbers else None
    if kind not in _PASSING or not numbers:
        return 0.0
    is_padded = "pad" in call.name.lower() or "unfold" in call.name.lower()
    if numbers == {0.0}:
        return None if call.name in _FILLING or (is_padded and call.given("value", 3)) else 0.0
    is_kept = len(numbers) == 1 and (call.name in _SAME or (kind == "moves" and not is_padded))
    return numbers.pop() if is_kept and "computed" not in numbers else None


def has_channels(labelling: Labelling, node: fx.Node) -> bool:
    return any(varying(part) for part in tensors_in(labelling.of(node)))


def _elementwise(labelling: Labelling, call: Call, found: dict[fx.Node, Rest], labels: Labels) -> Rest:
    if not found or call.name in ("to", "type_as"):  # the second argument says but the kind
        return labelling.rest.get(call.sources[0], 0.0) if call.sources else 0.0
    first = call.node.args[: _SCALING.get(call.name, 0)]
    if any(isinstance(each, fx.Node) and found.get(each) == 0 for each in first):
        return 0.0
    plain = [labelling.values[each] for each in call.sources if each not in found]
    plain = [value for value in plain if isinstance(value, Tensor)]
    if None in found.values() or not all(_is_thin(value, labels) for value in plain):
        return None
    if plain or "computed" in found.values():
        has_axes = "computed" in found.values() or any(value.ndim == labels.ndim for value in plain)
        return "computed" if has_axes and not writes(labelling.traced, call.node) else None
    zeros = {each: torch.tensor(value, dtype=torch.float64) for each, value in found.items()}
    args, kwargs = fx.node.map_arg(
        (call.node.args, call.node.kwargs), lambda each: zeros[each] if each in zeros else labelling.values[each]
    )
    result = float(call_node(labelling.traced, call.node, args, kwargs))
    return result if math.isfinite(result) else None


def _is_thin(value: Tensor, labels: Labels) -> bool:
    """Return whether a value is the same for all channels, whose axes it has."""
    return value.numel() == 1 or (value.ndim == labels.ndim and all(value.shape[axis] == 1 for axis in varying(labels)))


def can_be_summed(labelling: Labelling, call: Call, axes: tuple[int, ...]) -> bool:
    """Return whether it is known what channels that went would add to a sum or mean that is computed from images."""
    source = call.sources[0]
    rest = labelling.rest.get(source, 0.0)
    power = call.given("p", 1, call.given("ord", 1, 2))
    is_power = call.name not in ("norm", "vector_norm", "normalize") or not isinstance(power, int | float) or power > 0
    if source not in labelling.of_images or not is_power:
        return False
    is_known = rest is not None and call.node.args[:1] == (source,)
    return rest == 0 or (is_known and (call.name == "mean" or (call.name, len(axes)) == ("sum", 1)))


def restore_sum(node: fx.Node, before: fx.Node, labelling: Labelling, gone: Tensor) -> None:
    """Let a sum or mean over channels count those that went, in place; `before` is the node in the original."""
    source, axes = before.all_input_nodes[0], labelling.rescaled.get(before, ())
    labels = labelling.of(source)
    old, new = labels.shape, kept_labels(labels, gone).shape
    share = math.prod(new[axis] / old[axis] for axis in axes)
    if share == 1:
        return
    graph, is_mean = node.graph, plain_name(node) == "mean"
    lost = 1 - share if is_mean else float(old[axes[0]] - new[axes[0]])
    rest = rest_in(node.all_input_nodes[0], source, labelling, {})
    if isinstance(rest, fx.Node):
        with graph.inserting_before(node):
            added = graph.create_node(node.op, node.target, (rest, *node.args[1:]), node.kwargs)
            rest = graph.call_function(operator.mul, (added, lost))
    else:
        rest *= lost
    made: list[fx.Node] = []
    with graph.inserting_before(node.next):
        if is_mean:
            made.append(graph.call_function(operator.mul, (node, share)))
        if isinstance(rest, fx.Node) or rest:
            made.append(graph.call_function(operator.add, ((node, *made)[-1], rest)))
    if made:
        node.replace_all_uses_with(made[-1], delete_user_cb=lambda user: user not in made)


def rest_in(node: fx.Node, before: fx.Node, labelling: Labelling, known: dict[fx.Node, Made]) -> Made:
    """Return what stands in a node of a copied graph where a channel is zero, made there of other values if need be."""
    rest = labelling.rest.get(before, 0.0)
    if node in known or rest != "computed":
        return known[node] if node in known else float(rest or 0.0)
    graph = node.graph
    pairs = dict(zip(node.all_input_nodes, before.all_input_nodes, strict=True))
    wanted = {mate: each for mate, each in pairs.items() if has_channels(labelling, each)}
    rests = {mate: rest_in(mate, each, labelling, known) for mate, each in wanted.items()}
    plain = [mate for mate, each in pairs.items() if mate not in rests and isinstance(labelling.of(each), Tensor)]
    computed = [each for each in rests.values() if isinstance(each, fx.Node)]
    anchor = (computed or sorted(plain, key=lambda mate: -labelling.of(pairs[mate]).ndim))[0]
    with graph.inserting_before(node):
        zero = graph.call_function(operator.mul, (anchor, 0.0))
        for mate, each in rests.items():
            rests[mate] = each if isinstance(each, fx.Node) else graph.call_function(operator.add, (zero, each))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: rests.get(each, each))
        known[node] = graph.create_node(node.op, node.target, args, kwargs)
    return known[node]
