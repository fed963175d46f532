"""Find the tensors between convolutional stages, where a block can stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import fx, nn
from torch.nn import functional

from iqa_armor.errors import SurgeryError
from iqa_armor.surgery.flow import Flow
from iqa_armor.surgery.tokens import token_grid, token_grids
from iqa_armor.surgery.trace import size_of

PADDING = (
    nn.ZeroPad2d,
    nn.ConstantPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.CircularPad2d,
)


@dataclass(frozen=True)
class Cut:
    """A tensor through which everything that reaches a branch's last convolutions passes.

    Args:
        node: Name of its node in the graph.
        branch: Index of the branch, from 0.
        position: Its number in that branch, from 1 at the input.
        channels: Channels of the tensor.
        size: (height, width) of its maps.
        ratio: Output ÷ input elements of the first convolution behind it, a heuristic ([RA] eq. 7).
    """

    node: str
    branch: int
    position: int
    channels: int
    size: tuple[int, int]
    ratio: float


@dataclass(frozen=True)
class Branch:
    """The cuts of one branch, from the input on.

    Args:
        cuts: One cut for each map size of the branch's convolutions.
        problem: Why no cut is the last one, or "".
    """

    cuts: tuple[Cut, ...]
    problem: str = ""


def branches(traced: fx.GraphModule) -> tuple[Branch, ...]:
    """Return the branches of a traced network with their cuts.

    Args:
        traced: Graph whose nodes have sizes, as `trace` gives it.

    Raises:
        SurgeryError: If the network has no convolution whose cut could be found.
    """
    flow = Flow(traced)
    if not flow.convolutions:
        _point_to_tokens(traced)
        raise SurgeryError(
            "the network has no convolution on maps larger than one pixel, so there is no stage to protect"
        )
    return tuple(_branch(flow, index, sinks) for index, sinks in enumerate(_grouped_sinks(flow)))


def choose(traced: fx.GraphModule, position: str) -> list[fx.Node]:
    """Return the nodes that a `--position` names: one per branch for `last` and numbers.

    Args:
        traced: Graph whose nodes have sizes.
        position: "last", a number counting cuts from 1 at the input, or the name of a node or module that gives
            maps (N, C, H, W) or the tokens (N, tokens, C) of a transformer.

    Raises:
        SurgeryError: If there is no such cut, or dilation hides where the last stage begins.
    """
    by_name = {node.name: node for node in traced.graph.nodes}
    if position == "last" or re.fullmatch("[0-9]{1,9}", position):
        found = branches(traced)
        if position == "last" and any(branch.problem for branch in found):
            _point_to_tokens(traced)
        return [by_name[_pick(branch, position).node] for branch in found]
    node = by_name.get(position) or _last_node_of_module(traced, position)
    if node is None:
        raise SurgeryError(f"no node or module is called {position!r} in this network; {_places(traced)}")
    if node.op == "output" or len(size_of(node) or ()) not in (3, 4):
        raise SurgeryError(
            f"no map (N, C, H, W) and no tokens (N, tokens, C) are called {position!r} in this network; "
            f"{_places(traced)}"
        )
    token_grid(Flow(traced), node)
    return [node]


def _places(traced: fx.GraphModule) -> str:
    """Return where a block could stand, as text."""
    flow = Flow(traced)
    cuts = [cut.node for branch in branches(traced) for cut in branch.cuts] if flow.convolutions else []
    grids = [grid.node for grid in token_grids(flow)]
    texts = [f"its cuts are {', '.join(cuts)}"] if cuts else []
    return "; ".join(texts + ([f"its tokens are {', '.join(grids)}"] if grids else []) or ["it has no cuts"])


def _point_to_tokens(traced: fx.GraphModule) -> None:
    """Refuse to choose in a transformer, naming its tokens.

    Raises:
        SurgeryError: If the network has tokens on a grid.
    """
    names = [grid.node for grid in token_grids(Flow(traced))]
    if names:
        raise SurgeryError(
            "this is a transformer: behind its patch embedding there is no convolutional stage whose input could be "
            "protected, so there is no last cut; name a tensor of tokens to protect with --position NODE, such as "
            f"{', '.join(names[-3:])} (inspect lists {len(names)})"
        )


def _pick(branch: Branch, position: str) -> Cut:
    if position != "last":
        if not 1 <= int(position) <= len(branch.cuts):
            raise SurgeryError(f"position {position} does not exist; cuts are numbered 1 to {len(branch.cuts)}")
        return branch.cuts[int(position) - 1]
    if branch.problem:
        raise SurgeryError(
            f"{branch.problem}; name the tensor to protect with --position NODE (a node of the graph or a module, "
            "e.g. the one whose output feeds the last stage)"
        )
    return branch.cuts[-1]


def _last_node_of_module(traced: fx.GraphModule, path: str) -> fx.Node | None:
    inside = [
        node
        for node in traced.graph.nodes
        if str(node.target) == path
        or any(str(name) == path for name, _ in node.meta.get("nn_module_stack", {}).values())
        or (node.op == "call_module" and str(node.target).startswith(f"{path}."))
    ]
    return inside[-1] if inside else None


def _is_padding(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), PADDING)
    return node.op == "call_function" and node.target is functional.pad


def _grouped_sinks(flow: Flow) -> list[list[fx.Node]]:
    """Return the last convolutions, grouped by branch: those that share a tensor behind a convolution."""
    followed = {
        source
        for node in flow.convolutions
        for given in node.all_input_nodes
        for source in flow.last_convolutions.get(given, ())
    }
    groups: list[tuple[frozenset[fx.Node], list[fx.Node]]] = []
    for sink in (node for node in flow.convolutions if node not in followed):
        shared = frozenset(d for d in flow.dominators[sink] if flow.last_convolutions[d] and d is not sink)
        for index, (common, members) in enumerate(groups):
            if common & shared:
                groups[index] = (common & shared, [*members, sink])
                break
        else:
            groups.append((shared, [sink]))
    return [members for _, members in groups]


def _branch(flow: Flow, index: int, sinks: list[fx.Node]) -> Branch:
    ancestors = frozenset[fx.Node]().union(*(flow.before(sink) for sink in sinks))
    own = [node for node in flow.convolutions if node in ancestors]
    common = frozenset.intersection(*(flow.dominators[sink] for sink in sinks)) - set(sinks)
    passages = sorted((node for node in common if _is_map(node)), key=flow.order.__getitem__)
    firsts: dict[tuple[int, ...], fx.Node] = {}
    for node in own:
        firsts.setdefault(_map_size(node), node)
    nodes: list[tuple[fx.Node, fx.Node]] = []
    for first in firsts.values():
        cut = _latest_before(flow, passages, first)
        if cut is not None and cut not in (earlier for earlier, _ in nodes):
            nodes.append((cut, first))
    cuts = tuple(_cut(flow, cut, branch=index, position=n) for n, (cut, _) in enumerate(nodes, start=1))
    return Branch(cuts, problem=_problem(flow, own, nodes[-1][0] if nodes else None, final=_map_size(sinks[-1])))


def _problem(flow: Flow, own: list[fx.Node], last: fx.Node | None, *, final: tuple[int, ...]) -> str:
    """Return why the last cut of a branch with convolutions `own` cannot be told, or ""."""
    hiding = [node.name for node in own if _map_size(node) == final and _dilation(flow.traced, node) > 1]
    if hiding:
        return (
            f"the dilated convolution {hiding[0]!r} hides where the last stage begins: its maps are as large as "
            "the stage's before"
        )
    if last is None or last.op == "placeholder":
        return "the convolutions have one stage only, so the only cut is the image itself"
    return ""


def _latest_before(flow: Flow, passages: list[fx.Node], first: fx.Node) -> fx.Node | None:
    """Return the latest dominator that `first` depends on, outside the residual unit of `first`."""
    ancestors = flow.before(first) - {first}
    unit = first.meta.get("unit")
    usable = [
        node
        for node in passages
        if node in ancestors and not _is_padding(flow.traced, node) and not (unit and node.meta.get("unit") == unit)
    ]
    return usable[-1] if usable else None


def _cut(flow: Flow, node: fx.Node, *, branch: int, position: int) -> Cut:
    _, channels, height, width = size_of(node) or (0, 0, 0, 0)
    behind = next((conv for conv in flow.convolutions if node in flow.before(conv) and conv is not node), None)
    ratio = float("nan")
    if behind is not None:
        given = next(source for source in behind.all_input_nodes if size_of(source) is not None)
        ratio = prod((size_of(behind) or (1, 1))[1:]) / prod((size_of(given) or (1, 1))[1:])
    return Cut(node.name, branch, position, channels, (height, width), ratio)


def _is_map(node: fx.Node) -> bool:
    size = size_of(node)
    return size is not None and len(size) == 4


def _map_size(node: fx.Node) -> tuple[int, ...]:
    return (size_of(node) or ())[2:]


def _dilation(traced: fx.GraphModule, node: fx.Node) -> int:
    if node.op == "call_module":
        module: Any = traced.get_submodule(str(node.target))
        return max(int(side) for side in module.dilation)
    dilation = node.kwargs.get("dilation", node.args[5] if len(node.args) > 5 else 1)
    return max(dilation) if isinstance(dilation, tuple | list) else int(dilation)  # type: ignore[arg-type]
