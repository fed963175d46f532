"""Compute once what a network computes anew for every image although no image has a say in it."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from iqa_armor.graph.calls import called_name, layer_of, reads_kind, reads_size, writes
from iqa_armor.graph.functional import LAYERS_OF, drop_unread, stored_at
from iqa_armor.graph.interpret import FIXED_SIZE, interpret
from iqa_armor.graph.walk import ancestors

LARGEST = 2**22  # elements of a tensor that is worth storing
_RANDOM = ("rand", "normal", "bernoulli", "multinomial", "empty", "dropout")


def fold_constants(traced: fx.GraphModule, example: Tensor) -> None:
    """Store what no image changes (weights computed from others, tables; for one size, what it sets), in place."""
    values = _constants(traced, example)
    folded = [node for node in traced.graph.nodes if node in values and _is_worth_storing(traced, node, values)]
    for node in folded:
        _store(traced, node, values[node])
    drop_unread(traced, values if folded else ())
    for node in traced.graph.find_nodes(op="call_function", target=operator.getitem):
        _index_by_places(traced, node)


def _index_by_places(traced: fx.GraphModule, node: fx.Node) -> None:
    """Take the places that a stored mask marks in its stead: their number is known before the run."""
    index: list[Any] = []
    masks: list[fx.Node] = []
    each: Any
    for each in node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],):
        mask = stored_at(traced, each) if isinstance(each, fx.Node) else None
        if not (isinstance(mask, Tensor) and mask.dtype == torch.bool):
            index.append(each)
            continue
        masks.append(each)
        for places in mask.nonzero(as_tuple=True):
            setattr(traced, name := f"folded_{node.name}_{len(index)}", nn.Buffer(places.contiguous()))
            with traced.graph.inserting_before(node):
                index.append(traced.graph.get_attr(name))
    if masks:
        node.args = (node.args[0], tuple(index))
        drop_unread(traced, masks)


def _constants(traced: fx.GraphModule, example: Tensor) -> dict[fx.Node, Any]:
    """Return the values that are the same for all images, however many come together."""
    free = {node for node in _independent(traced) if node.op != "output"}
    if all(node.op == "get_attr" for node in free):
        return {}
    pair, triple = (example[:1].expand(count, *example.shape[1:]) for count in (2, 3))
    with torch.no_grad():
        two, three = ({n: value for n, value in interpret(traced, each) if n in free} for each in (pair, triple))
    return {node: value for node, value in two.items() if _is_equal(value, three[node])}


def _independent(traced: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes that no pixel reaches; where the graph serves any size, no size either."""
    is_fixed, reached = FIXED_SIZE in traced.meta, set[fx.Node]()
    for node in traced.graph.nodes:
        is_asking = reads_kind(node) or (is_fixed and reads_size(node))
        is_drawn = node.op != "get_attr" and any(word in str(called_name(node)) for word in _RANDOM)
        if node.op == "placeholder" or is_drawn or (not is_asking and reached.intersection(node.all_input_nodes)):
            reached.add(node)
    return [node for node in traced.graph.nodes if node not in reached]


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(_is_equal(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and not isinstance(one, Tensor) and bool(one == other)


def _is_worth_storing(traced: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Return whether a node is the last of a computation whose result can stand for it."""
    if node.op == "get_attr" or not _is_storable(values[node]):
        return False
    readers = [user for user in node.users if not _is_storable(values.get(user))]
    if not readers or any(writes(traced, user) for user in readers):
        return False
    # What is learned stays apart from what is computed from it, but for the weights of a layer.
    return not _learned(traced, node) or all(
        user.op == "call_function" and user.target in LAYERS_OF and user.args[:1] != (node,) for user in readers
    )


def _is_storable(value: Any) -> bool:
    is_plain = isinstance(value, Tensor) and not value.is_complex() and 0 < value.numel() <= LARGEST
    return is_plain and bool(torch.isfinite(value).all())


def _learned(traced: fx.GraphModule, node: fx.Node) -> list[str]:
    """Return the names of what is learned that a node is computed from."""
    found: dict[str, nn.Parameter] = {}
    for each in sorted(ancestors(node, stops=lambda each: reads_kind(each) or reads_size(each))):
        layer = layer_of(traced, each)
        if layer is not None:
            found |= {f"{each.target}.{name}": parameter for name, parameter in layer.named_parameters()}
        elif isinstance(value := stored_at(traced, each), nn.Parameter):
            found[str(each.target)] = value
    return [name for name, value in found.items() if value.requires_grad]


def _store(traced: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    learned = _learned(traced, node)
    owner = learned[0].rpartition(".")[0] if learned else ""
    if any(each.op == "call_module" and each.target == owner for each in traced.graph.nodes):
        owner = owner.rpartition(".")[0]  # a layer keeps its own weights alone
    name, stored = f"folded_{node.name}", value.detach().clone()
    setattr(traced.get_submodule(owner), name, nn.Parameter(stored) if learned else nn.Buffer(stored))
    with traced.graph.inserting_before(node):
        read = traced.graph.get_attr(f"{owner}.{name}" if owner else name)
    read.meta = dict(node.meta)
    node.replace_all_uses_with(read)
