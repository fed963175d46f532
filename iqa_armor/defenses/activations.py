"""Replace the rectifiers of a traced network by smooth activations."""

from collections.abc import Collection
from typing import Literal

import torch
from torch import fx, nn
from torch.nn import functional

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.calls import argument, called_name, layer_of
from iqa_armor.graph.walk import nearest
from iqa_armor.models.sqish import Sqish

Smooth = Literal["elu", "silu", "gelu", "sqish"]
SMOOTH: dict[str, type[nn.Module]] = {"elu": nn.ELU, "silu": nn.SiLU, "gelu": nn.GELU, "sqish": Sqish}
LAYERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)
OF_TORCH = (torch.relu, torch.relu_)
CALLS = {
    "call_function": (*OF_TORCH, functional.relu, functional.relu6, functional.leaky_relu, functional.leaky_relu_),
    "call_method": ("relu", "relu_"),
}


def replace_activations(traced: fx.GraphModule, kind: Smooth, *, fresh: Collection[str] | None = None) -> list[str]:
    """Put a smooth activation in the place of each ReLU, ReLU6 and leaky ReLU, in place; return the nodes' names.

    Layers, functions and methods of these names are replaced, at least one; other bent functions (clamp, hard swish,
    PReLU, those inside a layer of torch.nn such as a transformer's) stay as they are. ReLU6 loses its upper bound. With
    `fresh`, names of parameters that are not pretrained, only activations are replaced of which every nearest layer
    with parameters before them has one of these.

    Source: Xie et al., "Smooth Adversarial Training", arXiv:2006.14536, for smooth activations against attacks. Ours:
    which spellings count as a rectifier, and what behind a new layer means.
    """
    chosen = [n for n in traced.graph.nodes if type(layer_of(traced, n)) in LAYERS or n.target in CALLS.get(n.op, ())]
    if fresh is not None:
        chosen = [node for node in chosen if _is_behind_new(traced, node, frozenset(fresh))]
    if not chosen:
        none = "no ReLU, ReLU6 or leaky ReLU" + ("" if fresh is None else " behind layers that are not pretrained")
        raise SurgeryError(f"the network has {none} that could become {kind}; use --activation keep")
    for node in chosen:
        _replace(traced, node, SMOOTH[kind]().train(traced.training))
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
    return [node.name for node in chosen]


def _replace(traced: fx.GraphModule, node: fx.Node, activation: nn.Module) -> None:
    source, asks = node.all_input_nodes[0], node.op != "call_method" and node.target not in OF_TORCH
    if called_name(node).endswith("_") or (asks and argument(traced, node, "inplace")):
        # What reads the rectified tensor under its old name must now read the activation.
        order = list(traced.graph.nodes)
        later = set(order[order.index(node) + 1 :])
        source.replace_all_uses_with(node, delete_user_cb=lambda user: user in later)
    name = f"smooth_{node.name}"
    traced.add_submodule(name, activation)
    # The node keeps its name, by which users may call a cut.
    node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}


def _is_behind_new(traced: fx.GraphModule, node: fx.Node, fresh: frozenset[str]) -> bool:
    """Return whether each nearest layer with parameters before a node has one that is new; the image has none."""
    layers = nearest(node, lambda each: each.op == "placeholder" or bool(_parameters(traced, each)))
    return all(_parameters(traced, layer) & fresh for layer in layers)


def _parameters(traced: fx.GraphModule, node: fx.Node) -> frozenset[str]:
    layer = layer_of(traced, node)
    if layer is not None:
        return frozenset(f"{node.target}.{name}" for name, _ in layer.named_parameters())
    given = {str(source.target) for source in node.all_input_nodes if source.op == "get_attr"}
    return frozenset(given & {name for name, _ in traced.named_parameters(remove_duplicate=False)})
