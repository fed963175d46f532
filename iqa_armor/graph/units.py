"""Note on the nodes of a graph the residual unit that they belong to."""

from torch import fx

from iqa_armor.graph.calls import called_name
from iqa_armor.graph.sizes import size_of

ADDITIONS = ("add", "iadd", "add_")


def mark_units(traced: fx.GraphModule) -> None:
    """Write the name of a node's residual unit into `meta["unit"]`, in place.

    A unit is an instance of a class of which some instance adds maps (a shortcut): MobileNetV2's `features.14` has no
    shortcut itself, yet a tensor inside it is no place between stages.
    """
    residual = {stack[-1][1] for node in traced.graph.nodes if _is_shortcut(node) and (stack := _callers(node))}
    for node in traced.graph.nodes:
        inside = [path for path, kind in _callers(node) if kind in residual and path]
        if inside:
            node.meta["unit"] = inside[-1]


def copy_notes(traced: fx.GraphModule, source: fx.GraphModule) -> None:
    """Copy units and lines of source between nodes of the same names, in place."""
    notes = {node.name: node.meta for node in source.graph.nodes}
    for node in traced.graph.nodes:
        node.meta.update({key: value for key, value in notes.get(node.name, {}).items() if key in ("unit", "line")})


def _is_shortcut(node: fx.Node) -> bool:
    maps = [source for source in node.all_input_nodes if len(size_of(source) or ()) == 4]
    return called_name(node) in ADDITIONS and len(maps) == 2


def _callers(node: fx.Node) -> list[tuple[str, type]]:
    """Return (qualified name, class) of the modules a node was called in, outermost first."""
    return [(str(path), kind) for path, kind in node.meta.get("nn_module_stack", {}).values()]
