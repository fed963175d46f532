"""Walk along a graph: what a node depends on, what everything passes through, and residual units."""

from collections.abc import Callable, Collection, Iterable
from functools import reduce
from typing import cast

from torch import fx

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.calls import called_name, is_convolution, reads_size
from iqa_armor.graph.interpret import size_of

ADDITIONS = ("add", "iadd", "add_")
UNIT_SIZES = 2  # of the maps in a residual unit at most, but for single pixels: before and behind a stride


def reach(start: fx.Node, step: Callable[[fx.Node], Iterable[fx.Node]]) -> dict[fx.Node, None]:
    """Return what can be reached from a node, itself included, by steps from a node to others; a set with an order."""
    seen, waiting = dict.fromkeys([start]), [start]
    while waiting:
        fresh = [node for node in step(waiting.pop()) if node not in seen]
        seen.update(dict.fromkeys(fresh))
        waiting.extend(fresh)
    return seen


def ancestors(node: fx.Node, *, stops: Callable[[fx.Node], bool] = lambda _: False) -> Collection[fx.Node]:
    """Return what a node depends on, itself included, without what lies before the nodes that stop the walk."""
    return reach(node, lambda each: () if stops(each) and each is not node else each.all_input_nodes)


def nearest(node: fx.Node, is_wanted: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """Return the wanted nodes that a node depends on with no other wanted one in between."""
    return [each for each in ancestors(node, stops=is_wanted) if each is not node and is_wanted(each)]


def descendants(node: fx.Node) -> Collection[fx.Node]:
    """Return what depends on a node, itself included."""
    return reach(node, lambda each: each.users)


def node_called(traced: fx.GraphModule, name: str) -> fx.Node | None:
    """Return the node of a name, else the last that was made in the module of this path; None if there is none."""
    found: fx.Node | None = None
    for node in traced.graph.nodes:
        if node.name == name and node.op != "output":
            return cast(fx.Node, node)
        is_within = node.op == "call_module" and str(node.target).startswith(f"{name}.")
        if is_within or str(node.target) == name or any(path == name for path, _ in _callers(node)):
            found = found if node.op == "output" else node
    return found


class Dominators:
    """The tensors through which everything passes on its way from the images to a node.

    `node in dominators` says whether a node depends on the images, the graph's first placeholder, at all; others are
    options such as an attention mask. A node that reads but a size depends on it only `through_sizes`.
    """

    def __init__(self, graph: fx.Graph, *, through_sizes: bool = False) -> None:
        self._order = {node: index for index, node in enumerate(graph.nodes)}
        self._nearest: dict[fx.Node, fx.Node] = {}  # of the images: themselves
        for node in graph.nodes:
            if node.op == "placeholder" and not self._nearest:
                self._nearest[node] = node
            # `tensor.to(other)` reads but the kind of the other.
            is_cast = node.op == "call_method" and node.target in ("to", "type_as")
            read = node.all_input_nodes[:1] if is_cast else node.all_input_nodes
            sources = [source for source in read if source in self._nearest]
            if sources and (through_sizes or not reads_size(node)):
                self._nearest[node] = reduce(self._common, sources)

    def __contains__(self, node: object) -> bool:
        return node in self._nearest

    def of(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes that everything on its way to `node` passes, the images first, `node` last."""
        chain = [node]
        while self._nearest[chain[-1]] is not chain[-1]:
            chain.append(self._nearest[chain[-1]])
        return chain[::-1]

    def _common(self, one: fx.Node, other: fx.Node) -> fx.Node:
        while one is not other:
            one, other = sorted((one, other), key=self._order.__getitem__)
            other = self._nearest[other]
        return one


def passages(graph: fx.Graph) -> list[fx.Node]:
    """Return the tensors through which everything passes from the input to the output, the input first.

    Reading a size is a way around. Raises SurgeryError if there are several inputs, or the output depends on none.
    """
    dominators, output = Dominators(graph, through_sizes=True), graph.output_node()
    inputs = sum(node.op == "placeholder" for node in graph.nodes)
    if inputs != 1 or output not in dominators:
        raise SurgeryError(f"a network of one input is needed whose output depends on it, got {inputs} inputs")
    return [node for node in dominators.of(output)[:-1] if size_of(node)]


def mark_units(traced: fx.GraphModule) -> None:
    """Write the name of a node's residual unit into `meta["unit"]`, in place.

    A unit is an instance of a class of which some instance adds maps: MobileNetV2's `features.14` has no shortcut
    itself, yet a tensor inside it is no place between stages. One whose convolutions give maps of three sizes holds
    stages itself, such as a whole backbone in one `forward`.
    """
    residual: set[type] = set()
    sizes: dict[tuple[str, type], set[tuple[int, ...]]] = {}
    for node in traced.graph.nodes:
        maps = [source for source in node.all_input_nodes if len(size_of(source) or ()) == 4]
        if called_name(node) in ADDITIONS and len(maps) == 2:  # a shortcut
            residual.update(kind for _, kind in _callers(node)[-1:])
        for caller in _callers(node) if is_convolution(traced, node) else ():
            sizes.setdefault(caller, set()).add((size_of(node) or ())[2:])
    residual -= {kind for (_, kind), found in sizes.items() if len(found - {(1, 1)}) > UNIT_SIZES}
    for node in traced.graph.nodes:
        inside = [path for path, kind in _callers(node) if kind in residual and path]
        if inside:
            node.meta["unit"] = inside[-1]


def _callers(node: fx.Node) -> list[tuple[str, type]]:
    """Return (qualified name, class) of the modules a node was called in, outermost first."""
    return [(str(path), kind) for path, kind in node.meta.get("nn_module_stack", {}).values()]
