"""What layers and products do to labels: they read channels, make them, scale them."""

from torch import Tensor, fx, nn

from iqa_armor.pruning.channels.labelling import Call, Labelling
from iqa_armor.pruning.channels.labels import Labels, along, spread, varying, zeros

Factor = tuple[fx.Node, Tensor, int]  # of a product, its labels, and the axis that is summed over


def convolution(labelling: Labelling, call: Call, *, is_transposed: bool = False) -> Labels:
    """Read channels along the second axis and make new ones; a depthwise filter passes them on."""
    weight, labels = labelling.operand(call, "weight", 1), labelling.of(call.sources[0])
    if weight is None or set(varying(labels)) - {1}:
        return lost(labelling, call)
    groups, incoming = int(labelling.argument(call, "groups", 6, 1)), along(labels, 1)
    if 1 < groups == len(incoming):  # depthwise
        outgoing = incoming.repeat_interleave(call.value.shape[1] // groups)
        labelling.site(weight, 0, incoming if is_transposed else outgoing)
        if not is_transposed:
            labelling.made_axis.setdefault(weight, 0)
    elif not isinstance(labelling.stored(weight), nn.Parameter):  # such as those of a cosine transform or a high pass
        return labelling.stay(call, f"{call.name} has filters that are not learned")
    else:
        outgoing = _filtered(labelling, call, weight, incoming.view(groups, -1), is_transposed=is_transposed)
    labelling.site(labelling.operand(call, "bias", 2), 0, outgoing)
    return spread(outgoing, 1, call.value.shape)


def _filtered(labelling: Labelling, call: Call, weight: str, incoming: Tensor, *, is_transposed: bool) -> Tensor:
    """Make channels of those that groups read (groups, n), of each of which the same places go: groups stay even."""
    source, shape, groups = call.sources[0], labelling.stored(weight).shape, len(incoming)
    labelling.units.link(incoming, incoming[:1])
    labelling.read(call, source, labelling.of(source))
    axis = 1 if is_transposed else 0  # along which it makes channels: of one group, or of all
    labelling.site(weight, 1 - axis, incoming.flatten() if is_transposed else incoming[0])
    own = labelling.made(weight, shape[1] if is_transposed else shape[0] // groups, axis)
    labelling.site(weight, axis, own if is_transposed else own.repeat(groups))
    return own.repeat(groups)


def linear(labelling: Labelling, call: Call) -> Labels:
    """Read channels along the last axis and make new ones."""
    source, weight = call.sources[0], labelling.operand(call, "weight", 1)
    labels = labelling.of(source)
    is_learned = weight is not None and isinstance(labelling.stored(weight), nn.Parameter)
    if weight is None or not is_learned or set(varying(labels)) - {labels.ndim - 1}:
        return lost(labelling, call)
    labelling.read(call, source, labels)
    labelling.site(weight, 1, along(labels, labels.ndim - 1))
    outgoing = labelling.made(weight, labelling.stored(weight).shape[0], 0)
    if call.value.ndim < 3:
        labelling.heads.setdefault(weight)
    labelling.site(weight, 0, outgoing)
    labelling.site(labelling.operand(call, "bias", 2), 0, outgoing)
    return spread(outgoing, call.value.ndim - 1, call.value.shape)


def prelu(labelling: Labelling, call: Call) -> Labels:
    """Bend values by a slope per channel, or by one for all."""
    weight = labelling.operand(call, "weight", 1)
    if weight is not None and labelling.stored(weight).numel() == 1:
        return labelling.of(call.sources[0])
    return lost(labelling, call) if weight is None else scaled(labelling, call, axis=1, weight=1)


def layer_norm(labelling: Labelling, call: Call) -> Labels:
    """Normalise over the last axes, which may be the channels'."""
    labels = labelling.of(call.sources[0])
    shape = labelling.argument(call, "normalized_shape", 1, ())
    normalized = set(range(labels.ndim - (1 if isinstance(shape, int) else len(shape)), labels.ndim))
    if not set(varying(labels)) & normalized:
        return labels
    if len(normalized) > 1 or len(varying(labels)) > 1:
        return lost(labelling, call)
    labelling.across[call.node] = labels
    return scaled(labelling, call, axis=labels.ndim - 1, weight=2, bias=3)


def group_norm(labelling: Labelling, call: Call) -> Labels:
    """Normalise over groups of channels, from each of which the same places go."""
    labels = labelling.of(call.sources[0])
    if set(varying(labels)) - {1}:
        return lost(labelling, call)
    rows = along(labels, 1).view(int(labelling.argument(call, "num_groups", 1)), -1)
    labelling.units.link(rows, rows[:1])
    if rows.shape[1] > 1:
        labelling.across[call.node] = labels
    return scaled(labelling, call, axis=1, weight=2, bias=3)


def scaled(labelling: Labelling, call: Call, *, axis: int, **places: int) -> Labels:
    """Scale channels of an axis by stored tensors, which are named with their places among a function's arguments."""
    labels = labelling.of(call.sources[0])
    if set(varying(labels)) - {axis}:
        return lost(labelling, call)
    for name, place in places.items():
        labelling.site(labelling.operand(call, name, place), 0, along(labels, axis))
    return labels


def product(labelling: Labelling, call: Call) -> Labels:
    """Multiply matrices: what is summed over goes from both factors, the other axes stay what they are."""
    parts = [labelling.of(source) for source in call.sources]
    is_simple = all(p.ndim == parts[0].ndim >= 2 and len(varying(p)) <= 1 for p in parts if isinstance(p, Tensor))
    if len(parts) != 2 or not is_simple:
        return lost(labelling, call)
    first, second = parts
    left, right = call.sources
    rows, columns = first.ndim - 2, first.ndim - 1
    if (columns in varying(first) or rows in varying(second)) and not _adds_nothing(labelling, left, right):
        return lost(labelling, call)
    if first.shape[columns] > 1:
        _contracted(labelling, call, (left, first, columns), (right, second, rows))
    found = [(axis, first, second) for axis in varying(first) if axis != columns]
    found += [(axis, second, first) for axis in varying(second) if axis != rows]
    for axis, labels, other in found:
        if axis < rows and other.shape[axis] > 1:
            labelling.units.link(along(labels, axis), along(other, axis))
    if len({axis for axis, _, _ in found}) > 1:
        return lost(labelling, call)
    return spread(along(found[0][1], found[0][0]), found[0][0], call.value.shape) if found else zeros(call.value)


def attention(labelling: Labelling, call: Call) -> Labels:
    """Weigh values by softmax(q·k): channels of q and k go together, those of the values are the result's."""
    sources = [call.given(name, place) for place, name in enumerate(("query", "key", "value"))]
    parts = [labelling.of(source) for source in sources]
    last = call.value.ndim - 1
    if set(call.sources) - set(sources) or any(part.ndim != last + 1 or set(varying(part)) - {last} for part in parts):
        return lost(labelling, call)
    query, key, content = parts
    if not _adds_nothing(labelling, *sources[:2]):
        return lost(labelling, call)
    _contracted(labelling, call, (sources[0], query, last), (sources[1], key, last))
    return spread(along(content, last), last, call.value.shape)


def lost(labelling: Labelling, call: Call) -> Labels:
    """Let channels stay that go into what nothing is known of."""
    return labelling.stay(call, f"{call.name} mixes channels in a way that cannot be followed")


def _adds_nothing(labelling: Labelling, *factors: fx.Node) -> bool:
    """Return whether the product of values for a channel that is zero, or of what reads it, is zero."""
    of_images = labelling.of_images.intersection(factors)
    return bool(of_images) and any(each not in of_images or labelling.rest.get(each, 0.0) == 0 for each in factors)


def _contracted(labelling: Labelling, call: Call, left: Factor, right: Factor) -> None:
    labelling.units.link(along(*left[1:]), along(*right[1:]))
    for source, labels, _ in (left, right):
        labelling.read(call, source, labels)
