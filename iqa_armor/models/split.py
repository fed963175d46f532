"""Split a network in two at one of its tensors: what makes the features, and the head that scores them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.calls import layer_of
from iqa_armor.graph.interpret import size_of
from iqa_armor.graph.trace import trace_shared
from iqa_armor.graph.walk import ancestors, descendants, node_called, passages


def split_network(network: nn.Module, node: str = "", *, example: Tensor) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return (backbone, head) that share the network's layers; `head(backbone(x))` has the bits of `network(x)`.

    Both compute what the network does in eval mode, and are called in it; the network's own mode stays. The head may
    overwrite its argument. `node` names the tensor to split at, a node of the graph or a module; by default the last
    learned vectors (N, C) through which everything passes before a linear layer. `example` is an input (N, 3, H, W).
    Raises SurgeryError if the network cannot be traced, there is no such tensor, or the head reads anything else.
    """
    traced = trace_shared(network, example)
    cut = node_called(traced, node) if node else _features(traced)
    if cut is None or not size_of(cut):
        raise SurgeryError(f"no tensor is called {node!r} in this network; it can be split at {_listed(traced.graph)}")
    nodes = list(traced.graph.nodes)
    behind = set(descendants(cut)) - {cut}
    needed = ancestors(traced.graph.output_node(), stops=lambda each: each is cut)
    _refuse_taps(cut, [each for each in nodes if each in needed], behind)
    # All that comes before, not only what the cut reads: an operation in place may change what it reads.
    before = [each for each in nodes[: nodes.index(cut) + 1] if each not in behind]
    after = [each for each in nodes if each in needed and each is not cut and each.op != "output"]
    (scores,) = traced.graph.output_node().args
    return part_of(network, before, cut, name="Backbone"), part_of(network, after, scores, name="Head", given=cut)


def part_of(
    network: nn.Module, nodes: Sequence[fx.Node], ends: Any, *, name: str, given: fx.Node | None = None
) -> fx.GraphModule:
    """Return the part of a network's graph that computes `ends` by some nodes, in their order, of the value `given`."""
    graph = fx.Graph()
    kept = {} if given is None else {given: graph.placeholder("features")}
    for node in nodes:
        kept[node] = graph.node_copy(node, kept.__getitem__)
    graph.output(fx.node.map_arg(ends, kept.__getitem__))
    graph.lint()
    made = fx.GraphModule(network, graph, name)
    made.training = network.training
    return made


def _features(traced: fx.GraphModule) -> fx.Node:
    """Return the last vectors before the first linear layer behind the first vectors."""
    nodes = list(traced.graph.nodes)
    layers = {node: layer_of(traced, node) for node in nodes if node.op in ("get_attr", "call_module")}
    weighted = [node for node, layer in layers.items() if layer is None or any(True for _ in layer.parameters())]
    learned = descendants(weighted[0]) if weighted else ()
    sizes = {node: size_of(node) or () for node in passages(traced.graph) if node in learned}
    vectors = [node for node, size in sizes.items() if len(size) == 2 and size[1] > 1]
    if not vectors:
        raise SurgeryError(
            "the network has no learned vectors (N, C) through which everything passes; name the tensor to split at by "
            f"node=NAME, e.g. {_listed(traced.graph)}"
        )
    behind = nodes[nodes.index(vectors[0]) + 1 :]
    linear = (n for n in behind if isinstance(layer_of(traced, n), nn.Linear) or n.target is functional.linear)
    first = next(linear, nodes[-1])
    return [node for node in vectors if node in nodes[: nodes.index(first)]][-1]


def _listed(graph: fx.Graph) -> str:
    return ", ".join(node.name for node in passages(graph)[1:][-8:]) or "none"


def _refuse_taps(cut: fx.Node, needed: list[fx.Node], behind: set[fx.Node]) -> None:
    """Refuse a cut around which the input reaches the output."""
    fed = {each for node in cut.graph.nodes if node.op == "placeholder" for each in descendants(node)}
    around = [node for node in needed if node is not cut and node not in behind and node in fed]
    read = [node.name for node in around if any(user in behind and user in needed for user in node.users)]
    if read:
        raise SurgeryError(
            f"the head behind {cut.name!r} also reads {', '.join(read)}; split where everything passes through one "
            f"tensor, e.g. at {_listed(cut.graph)}"
        )
