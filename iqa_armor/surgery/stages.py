"""Find the tensors between convolutional stages, where a block can stand."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import fx, nn
from torch.nn import functional

from iqa_armor.errors import SurgeryError
from iqa_armor.surgery.trace import size_of

PADDING = (
    nn.ZeroPad2d,
    nn.ConstantPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.CircularPad2d,
)
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


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
    flow = _Flow(traced)
    if not flow.convolutions:
        raise SurgeryError(
            "the network has no convolution on maps larger than one pixel, so there is no stage to "
            "protect; transformers have no convolutional cut"
        )
    return tuple(_branch(flow, index, sinks) for index, sinks in enumerate(_grouped_sinks(flow)))


def choose(traced: fx.GraphModule, position: str) -> list[fx.Node]:
    """Return the nodes that a `--position` names: one per branch for `last` and numbers.

    Args:
        traced: Graph whose nodes have sizes.
        position: "last", a number counting cuts from 1 at the input, or the name of a node or module.

    Raises:
        SurgeryError: If there is no such cut, or dilation hides where the last stage begins.
    """
    by_name = {node.name: node for node in traced.graph.nodes}
    if position == "last" or position.isdigit():
        return [by_name[_pick(branch, position).node] for branch in branches(traced)]
    node = by_name.get(position) or _last_node_of_module(traced, position)
    size = size_of(node) if node is not None else None
    if node is None or size is None or len(size) != 4 or node.op == "output":
        listed = ", ".join(cut.node for branch in branches(traced) for cut in branch.cuts)
        what = "no node or module" if node is None else "no map (N, C, H, W)"
        raise SurgeryError(f"{what} is called {position!r} in this network; its cuts are {listed}")
    return [node]


def leads_to_last_stage(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a convolution lies at or behind `node`, so that it belongs to the trunk, not to a head."""
    seen, waiting = set(), [node]
    while waiting:
        current = waiting.pop()
        if _is_convolution(traced, current):
            return True
        fresh = [user for user in current.users if user not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return False


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


def _is_convolution(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), CONVOLUTIONS)
    return node.op == "call_function" and node.target in (functional.conv2d, functional.conv_transpose2d)


def _is_padding(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), PADDING)
    return node.op == "call_function" and node.target is functional.pad


class _Flow:
    """Convolutions, dominators and order of the nodes that depend on the input."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.order = {node: index for index, node in enumerate(traced.graph.nodes)}
        self.dominators: dict[fx.Node, frozenset[fx.Node]] = {}
        self.convolutions: list[fx.Node] = []
        self.last_convolutions: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in traced.graph.nodes:
            self._visit(node)

    def _visit(self, node: fx.Node) -> None:
        inputs = [source for source in node.all_input_nodes if source in self.dominators]
        if node.op == "placeholder":
            self.dominators[node] = frozenset([node])
            self.last_convolutions[node] = frozenset()
        elif inputs:
            common = frozenset.intersection(*(self.dominators[source] for source in inputs))
            self.dominators[node] = common | {node}
            before = frozenset[fx.Node]().union(*(self.last_convolutions[source] for source in inputs))
            size = size_of(node)
            if _is_convolution(self.traced, node) and size is not None and prod(size[2:]) > 1:
                self.convolutions.append(node)
                before = frozenset([node])
            self.last_convolutions[node] = before

    def before(self, node: fx.Node) -> frozenset[fx.Node]:
        """Return the nodes that `node` depends on, itself included."""
        seen, waiting = {node}, [node]
        while waiting:
            fresh = [source for source in waiting.pop().all_input_nodes if source not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
        return frozenset(seen)


def _grouped_sinks(flow: _Flow) -> list[list[fx.Node]]:
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


def _branch(flow: _Flow, index: int, sinks: list[fx.Node]) -> Branch:
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


def _problem(flow: _Flow, own: list[fx.Node], last: fx.Node | None, *, final: tuple[int, ...]) -> str:
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


def _latest_before(flow: _Flow, passages: list[fx.Node], first: fx.Node) -> fx.Node | None:
    """Return the latest dominator that `first` depends on, outside the residual unit of `first`."""
    ancestors = flow.before(first) - {first}
    unit = first.meta.get("unit")
    usable = [
        node
        for node in passages
        if node in ancestors and not _is_padding(flow.traced, node) and not (unit and node.meta.get("unit") == unit)
    ]
    return usable[-1] if usable else None


def _cut(flow: _Flow, node: fx.Node, *, branch: int, position: int) -> Cut:
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
