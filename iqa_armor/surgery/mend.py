"""Undo what tracing freezes in a graph."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn
from torch.nn import functional

DROPOUTS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    functional.alpha_dropout: nn.AlphaDropout,
}


def mend(traced: fx.GraphModule) -> None:
    """Turn functional dropout and layer normalization back into modules, and `tensor.data` into a call, in place."""
    _detach_data(traced)
    _restore_dropout(traced)
    _restore_layer_norm(traced)
    traced.graph.lint()
    traced.recompile()


def _detach_data(traced: fx.GraphModule) -> None:
    """Write `tensor.data` as `tensor.detach()`, which is the same and has a stored form, in place."""
    for node in traced.graph.nodes:
        if node.op == "call_function" and node.target is getattr and node.args[1:] == ("data",):
            node.op, node.target, node.args = "call_method", "detach", node.args[:1]


def _restore_dropout(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or node.target not in DROPOUTS:
            continue
        rate = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
        name = f"dropout_{node.name}"
        traced.add_submodule(name, DROPOUTS[node.target](rate))
        with traced.graph.inserting_after(node):
            module = traced.graph.call_module(name, (node.args[0] if node.args else node.kwargs["input"],))
        node.replace_all_uses_with(module)
        traced.graph.erase_node(node)


def _restore_layer_norm(traced: fx.GraphModule) -> None:
    """Make `layer_norm` with the weight and bias of one submodule a LayerNorm in its place; names stay the same.

    The width is a number in the graph otherwise, and stays it when channels are pruned.
    """
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or node.target is not functional.layer_norm:
            continue
        given = {**dict(zip(("input", "shape", "weight", "bias", "eps"), node.args, strict=False)), **node.kwargs}
        owner = _owner(given.get("weight"), given.get("bias"))
        shape = given.get("shape", given.get("normalized_shape"))
        if (
            not _has_only_affine(traced, owner)
            or not isinstance(shape, tuple | list)
            or len(shape) != 1
            or not isinstance(shape[0], int)
        ):
            continue
        norm = nn.LayerNorm(shape[0], eps=given.get("eps", 1e-5))
        norm.weight, norm.bias = (operator.attrgetter(f"{owner}.{name}")(traced) for name in ("weight", "bias"))
        traced.set_submodule(owner, norm)
        with traced.graph.inserting_after(node):
            module = traced.graph.call_module(owner, (given["input"],))
        module.meta = dict(node.meta)
        node.replace_all_uses_with(module)
        traced.graph.erase_node(node)
        for parameter in (given["weight"], given["bias"]):
            if not parameter.users:
                traced.graph.erase_node(parameter)


def _has_only_affine(traced: fx.GraphModule, owner: str) -> bool:
    """Return whether a submodule may be replaced: nothing of it but its weight and bias is used."""
    if not owner:
        return False
    module = traced.get_submodule(owner)
    used = {name for name, _ in (*module.named_parameters(), *module.named_buffers(), *module.named_children())}
    return used == {"weight", "bias"}


def _owner(weight: Any, bias: Any) -> str:
    """Return the path of the module whose `weight` and `bias` two nodes read, or ""."""
    nodes = [node for node in (weight, bias) if isinstance(node, fx.Node) and node.op == "get_attr"]
    paths = [str(node.target).rpartition(".") for node in nodes]
    if [name for _, _, name in paths] != ["weight", "bias"] or paths[0][0] != paths[1][0]:
        return ""
    return paths[0][0]
