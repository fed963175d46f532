"""From which convolutions tensors come, and the grid of places that a transformer's tokens stand on."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod

from torch import fx, nn
from torch.nn import functional

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.calls import arguments, called_name, is_convolution, layer_of
from iqa_armor.graph.interpret import size_of
from iqa_armor.graph.walk import ADDITIONS, Dominators, reach

MOST_EXTRA = 8  # class and distillation tokens and registers; no published network has more of them
MOVES = {"permute", "transpose", "movedim", "swapaxes", "reshape", "view", "flatten", "unflatten"}


class Lineage:
    """What the nodes of a traced graph that depend on the images come from.

    `convolutions` on maps larger than one pixel, in order; `last_convolutions` nearest before a node, or itself.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced, self.dominators = traced, Dominators(traced.graph)
        self.convolutions: list[fx.Node] = []
        self.last_convolutions: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in traced.graph.nodes:
            if node not in self.dominators:
                continue
            before = (self.last_convolutions.get(source, frozenset()) for source in node.all_input_nodes)
            self.last_convolutions[node] = frozenset[fx.Node]().union(*before)
            if is_convolution(traced, node) and prod((size_of(node) or ())[2:]) > 1:
                self.convolutions.append(node)
                self.last_convolutions[node] = frozenset([node])

    @property
    def image_size(self) -> tuple[int, ...]:
        """Size (N, 3, H, W) of the example image."""
        return size_of(next(node for node in self.traced.graph.nodes if node.op == "placeholder")) or ()

    def counts(self, node: fx.Node) -> set[int]:
        """Return how many images, or crops of them, the convolutions that a node comes from have seen."""
        found = {maps[0] for each in self.last_convolutions.get(node, ()) if (maps := size_of(each))}
        return found or {self.image_size[0]}


@dataclass(frozen=True)
class TokenGrid:
    """A tensor of tokens (N, extra + h·w, C), or of maps with their channels last (N, h, w, C); `size` is (h, w).

    `module` is the path of the innermost module it is made in, or ""; `extra` tokens lead, outside the grid.
    """

    node: str
    module: str
    channels: int
    size: tuple[int, int]
    extra: int


def token_grid(lineage: Lineage, node: fx.Node) -> TokenGrid | None:
    """Return the grid of the tokens that a node gives; None where it gives maps (N, C, H, W).

    The grid is that of the last convolutions before the node, which made the tokens; without any, that of equal square
    patches of the image. Raises SurgeryError if its value is neither, or the grid cannot be told; says why.
    """
    size = size_of(node) or ()
    if len(size) == 4:
        return _grid(node, size[1:3], 0) if _has_channels_last(lineage, node) else None
    described = f"{node.name!r} gives " + (f"a tensor {size}" if size else "no tensor")
    if len(size) != 3 or size[0] not in lineage.counts(node):
        raise SurgeryError(f"{described}; a block stands on maps (N, C, H, W) or tokens (N, tokens, C) only")
    convolutions = lineage.last_convolutions.get(node)
    maps = {maps for convolution in convolutions or () if len(maps := size_of(convolution) or ()) == 4}
    if any(size[1:] == (channels, height * width) for _, channels, height, width in maps):
        problem = f"{described}, which has or may have its channels before its places"
        raise SurgeryError(f"{problem}; name a tensor of tokens (N, tokens, C) behind it")
    places = {each[2:] for each in maps} if convolutions else _patches(lineage.image_size)
    fitting = sorted(place for place in places if 0 <= size[1] - prod(place) <= MOST_EXTRA)
    if len(fitting) != 1:
        listed = ", ".join("{}x{}".format(*place) for place in fitting or sorted(places)) or "none"
        why = "several grids fit" if fitting else f"no grid with at most {MOST_EXTRA} further tokens fits"
        raise SurgeryError(f"{why} the {size[1]} tokens of {node.name!r} (grids: {listed}); name another --position")
    return _grid(node, fitting[0], size[1] - prod(fitting[0]))


def token_grids(lineage: Lineage) -> tuple[TokenGrid, ...]:
    """Return the tokens that everything passes: where a residual unit of a transformer ends."""
    output = lineage.traced.graph.output_node()
    found = []
    for node in lineage.dominators.of(output) if output in lineage.dominators else ():
        if _ends_unit(lineage, node) and len(size_of(node) or ()) in (3, 4):
            with suppress(SurgeryError):
                found.append(token_grid(lineage, node))
    return tuple(filter(None, found))


def turned_tokens(lineage: Lineage) -> TokenGrid | None:
    """Return the last tokens of a transformer that has them as (tokens, N, C), turned in place, or None for others."""
    graph, turned = lineage.traced.graph, list[fx.Node]()
    output = graph.output_node()
    for node in lineage.dominators.of(output) if output in lineage.dominators else ():
        size, counts = size_of(node) or (), lineage.counts(node)
        if _ends_unit(lineage, node) and len(size) == 3 and size[1] in counts and size[0] not in counts:
            turned.append(_turned(graph, node))
    lineage, grids = Lineage(lineage.traced), list[TokenGrid]()
    for node in turned:
        with suppress(SurgeryError):
            grids += filter(None, [token_grid(lineage, node)])
    found = last_tokens(grids) if len(grids) > 1 else None
    for node in turned:
        if found is None or node.name != found.node:
            (back,) = node.users
            back.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(back)
            graph.erase_node(node)
    lineage.traced.recompile()
    return found


def _turned(graph: fx.Graph, node: fx.Node) -> fx.Node:
    readers, (length, count, width) = list(node.users), size_of(node) or (0, 0, 0)
    with graph.inserting_after(node):
        turned = graph.call_method("transpose", (node, 0, 1))
    with graph.inserting_after(turned):
        back = graph.call_method("transpose", (turned, 0, 1))
    turned.meta, back.meta = {**node.meta, "size": (count, length, width)}, dict(node.meta)
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user in readers)
    return turned


def last_tokens(grids: Sequence[TokenGrid]) -> TokenGrid:
    """Return what the last stage of a transformer with two grids or more reads (ours)."""
    larger = [grid for grid in grids if grid.size != grids[-1].size]
    if larger:
        return larger[-1]
    # All are on one: those that the last quarter of the units reads, at the end of a block.
    before = len(grids) - max(1, len(grids) // 4)
    ends = [place for place in range(before) if grids[place].module != grids[place + 1].module]
    return grids[ends[-1] if ends else before - 1]


def _ends_unit(lineage: Lineage, node: fx.Node) -> bool:
    """Return whether a node adds two tensors of its own size, both made from the image."""
    sizes = [size_of(source) for source in node.all_input_nodes if source in lineage.dominators]
    return called_name(node) in ADDITIONS and sizes == [size_of(node)] * 2


def _grid(node: fx.Node, place: tuple[int, ...], extra: int) -> TokenGrid:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    module = str(stack[-1][0]) if stack else ""
    return TokenGrid(node.name, module, (size_of(node) or (0,))[-1], (place[0], place[1]), extra)


def _patches(image: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Return the grids of equal square patches of an image, larger than one pixel."""
    height, width = image[2:]
    sides = (side for side in range(2, min(height, width)) if height % side == width % side == 0)
    return {(height // side, width // side) for side in sides}


def _has_channels_last(lineage: Lineage, node: fx.Node) -> bool:
    """Return whether maps are (N, h, w, C): a layer on the last axis touches them or maps like them, no convolution."""

    def alike(current: fx.Node) -> list[fx.Node]:
        near = [other for other in (*current.all_input_nodes, *current.users) if size_of(other) == size_of(node)]
        return [other for other in near if not {called_name(other), called_name(current)} & MOVES]

    maps = reach(node, alike)
    touching = {other for current in maps for other in (current, *current.all_input_nodes, *current.users)}
    is_convolved = any(is_convolution(lineage.traced, other) for other in touching)
    return not is_convolved and any(_works_on_last_axis(lineage, other) for other in touching)


def _works_on_last_axis(lineage: Lineage, node: fx.Node) -> bool:
    layer = layer_of(lineage.traced, node)
    if layer is not None:
        return type(layer) is nn.Linear or (type(layer) is nn.LayerNorm and len(layer.normalized_shape) == 1)
    if node.target is functional.layer_norm:
        return len(arguments(node)["normalized_shape"]) == 1
    return node.target is functional.linear
