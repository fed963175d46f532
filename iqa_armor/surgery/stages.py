"""Find the tensors between convolutional stages, where a block can stand."""

import re
from dataclasses import dataclass
from math import ceil, prod

from torch import fx, nn
from torch.nn import functional

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.calls import argument, called_name, is_convolution, layer_of
from iqa_armor.graph.interpret import size_of
from iqa_armor.graph.walk import ancestors, node_called, reach
from iqa_armor.surgery.tokens import MOVES, Lineage, TokenGrid, last_tokens, token_grid, token_grids, turned_tokens

ISOTROPIC = 4  # so many convolutions on maps of one size are more than one stage
PADDING = (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)


@dataclass(frozen=True)
class Cut:
    """A tensor through which everything that reaches a branch's last convolutions passes.

    Branches count from 0, positions from 1; `ratio` is output ÷ input elements of the convolution behind ([RA] eq. 7).
    """

    node: str
    branch: int
    position: int
    channels: int
    size: tuple[int, int]  # (height, width)
    ratio: float


@dataclass(frozen=True)
class Branch:
    """The cuts of one branch, one for each map size of its convolutions, and why none is the last, or ""."""

    cuts: tuple[Cut, ...]
    problem: str = ""


def branches(lineage: Lineage) -> tuple[Branch, ...]:
    """Return the branches of a traced network with their cuts; a SurgeryError if it has no convolution on maps."""
    if not lineage.convolutions:
        problem = "the network has no convolution on maps larger than one pixel"
        raise SurgeryError(f"{problem}, so there is no stage to protect")
    return tuple(_branch(lineage, index, sinks) for index, sinks in enumerate(_grouped_sinks(lineage)))


def choose(traced: fx.GraphModule, position: str) -> list[fx.Node]:
    """Return the nodes that a `--position` names, one per branch for "last" and numbers; nodes of the graph have sizes.

    Numbers count cuts from 1 at the input; other words name a node or module that gives maps (N, C, H, W) or a
    transformer's tokens (N, tokens, C). "last" is the input of the last convolutional stage, else of a transformer's
    last tokens. Raises SurgeryError if there is no such cut, or dilation hides where the last stage begins.
    """
    lineage = Lineage(traced)
    tokens = tokens_instead(lineage) if position == "last" else None
    if position == "last" or re.fullmatch("[0-9]{1,9}", position):
        names = [tokens.node] if tokens else [_pick(branch, position).node for branch in branches(lineage)]
        return [node for name in names for node in traced.graph.nodes if node.name == name]
    node = node_called(traced, position)
    if node is None or len(size_of(node) or ()) not in (3, 4):
        missing = "node or module is" if node is None else "map (N, C, H, W) and no tokens (N, tokens, C) are"
        raise SurgeryError(f"no {missing} called {position!r} in this network; {_places(lineage)}")
    token_grid(lineage, node)
    return [node]


def _places(lineage: Lineage) -> str:
    cuts = [cut.node for branch in branches(lineage) for cut in branch.cuts] if lineage.convolutions else []
    places = {"cuts": cuts, "tokens": [grid.node for grid in token_grids(lineage)]}
    told = [f"its {what} are {', '.join(names)}" for what, names in places.items() if names]
    return "; ".join(told) or "it has no cuts"


def tokens_instead(lineage: Lineage) -> TokenGrid | None:
    """Return the tokens that `last` means where convolutional stages do not say what the last is, or None."""
    found = branches(lineage) if lineage.convolutions else ()
    if found and not any(branch.problem for branch in found):
        return None
    grids = token_grids(lineage)
    return last_tokens(grids) if len(grids) > 1 else turned_tokens(lineage)


def _pick(branch: Branch, position: str) -> Cut:
    if position == "last" and branch.problem:
        raise SurgeryError(
            f"{branch.problem}; name the tensor to protect with --position NODE (a node of the graph or a module, "
            "e.g. the one whose output feeds the last stage), or leave the block out with --position none"
        )
    number = len(branch.cuts) if position == "last" else int(position)
    if not 1 <= number <= len(branch.cuts):
        raise SurgeryError(f"position {position} does not exist; cuts are numbered 1 to {len(branch.cuts)}")
    return branch.cuts[number - 1]


def _grouped_sinks(lineage: Lineage) -> list[list[fx.Node]]:
    """Return the last convolutions, grouped by branch: those that share a tensor behind a convolution."""
    inputs = (given for node in lineage.convolutions for given in node.all_input_nodes)
    followed = frozenset[fx.Node]().union(*(lineage.last_convolutions.get(given, ()) for given in inputs))
    groups: list[tuple[set[fx.Node], list[fx.Node]]] = []
    for sink in (node for node in lineage.convolutions if node not in followed):
        shared = {node for node in lineage.dominators.of(sink)[:-1] if lineage.last_convolutions[node]}
        for common, members in groups:
            if common & shared:
                common &= shared
                members.append(sink)
                break
        else:
            groups.append((shared, [sink]))
    return [members for _, members in groups]


def _branch(lineage: Lineage, index: int, sinks: list[fx.Node]) -> Branch:
    before = frozenset[fx.Node]().union(*(ancestors(sink) for sink in sinks))
    own = [node for node in lineage.convolutions if node in before]
    common = frozenset.intersection(*(frozenset(lineage.dominators.of(sink)) for sink in sinks)) - set(sinks)
    passed = [node for node in lineage.dominators.of(sinks[0]) if node in common and len(size_of(node) or ()) == 4]
    firsts = [node for place, node in enumerate(own) if _map_size(node) not in map(_map_size, own[:place])]
    if len(firsts) == 1 and len(own) >= ISOTROPIC:  # the last quarter stands for the last stage (ours)
        firsts.append(own[-ceil(len(own) / 4)])
    nodes = [*dict.fromkeys(cut for first in firsts if (cut := _usable_before(lineage, passed, first)))]
    cuts = tuple(_cut(lineage, cut, branch=index, position=n) for n, cut in enumerate(nodes, start=1))
    return Branch(cuts, problem=_problem(lineage, own, nodes[-1] if nodes else None, final=_map_size(sinks[-1])))


def _problem(lineage: Lineage, own: list[fx.Node], last: fx.Node | None, *, final: tuple[int, ...]) -> str:
    """Return why the last cut of a branch with convolutions `own` cannot be told, or ""."""
    inside = [node for node in own if _map_size(node) == final]
    dilated = [node for node in inside if _dilation(lineage, node) > 1]
    # Dilation in the very unit that makes the maps smaller is how its filters look, not a stage that kept its size.
    unit = inside[0].meta.get("unit")
    if dilated and not (unit and any(node.meta.get("unit") == unit for node in dilated)):
        problem = f"the dilated convolution {dilated[0].name!r} hides where the last stage begins"
        return f"{problem}: its maps are as large as the stage's before"
    if last is None or not lineage.last_convolutions.get(last):
        which = "" if own == lineage.convolutions else f" that lead to {own[-1].name!r}"
        if len({_map_size(node) for node in own}) > 1:
            return f"the convolutions{which} have nothing but the image in common, so no cut lies before the last stage"
        return f"the convolutions{which} have one stage only, so the only cut is the image itself"
    return ""


def _dilation(lineage: Lineage, node: fx.Node) -> int:
    value = argument(lineage.traced, node, "dilation", 1)
    return max(value) if isinstance(value, tuple | list) else int(value)


def _usable_before(lineage: Lineage, passed: list[fx.Node], first: fx.Node) -> fx.Node | None:
    """Return the last dominator with maps that `first` depends on, outside the residual unit of `first`."""
    before, unit = ancestors(first), first.meta.get("unit")
    for node in reversed(passed):
        is_padding = isinstance(layer_of(lineage.traced, node), PADDING) or node.target is functional.pad
        is_outside = node is not first and not (unit and node.meta.get("unit") == unit)
        if node in before and is_outside and not is_padding and _has_maps(lineage, node):
            return node
    return None


def _has_maps(lineage: Lineage, node: fx.Node) -> bool:
    """Return whether the axes of four are (N, C, H, W): they come from a convolution or the image, or go to one."""
    before = reach(node, lambda each: () if called_name(each) in MOVES else each.all_input_nodes)
    behind = reach(node, lambda each: [user for user in each.users if called_name(user) not in MOVES])
    return any(each.op == "placeholder" or is_convolution(lineage.traced, each) for each in (*before, *behind))


def _cut(lineage: Lineage, node: fx.Node, *, branch: int, position: int) -> Cut:
    _, channels, height, width = size_of(node) or (0, 0, 0, 0)
    behind = next((conv for conv in lineage.convolutions if conv is not node and node in ancestors(conv)), None)
    ratio = float("nan")
    if behind is not None:
        given = next(source for source in behind.all_input_nodes if size_of(source) is not None)
        ratio = prod((size_of(behind) or (1, 1))[1:]) / prod((size_of(given) or (1, 1))[1:])
    return Cut(node.name, branch, position, channels, (height, width), ratio)


def _map_size(node: fx.Node) -> tuple[int, ...]:
    return (size_of(node) or ())[2:]
