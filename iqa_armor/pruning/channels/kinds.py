"""What the functions, methods and layers of a graph do to channels."""

import tomllib
from importlib import resources

from torch import fx, nn

_NAMES = tomllib.loads(resources.files("iqa_armor.pruning.channels").joinpath("kinds.toml").read_text("utf-8"))
FUNCTIONS: dict[str, str] = {name: kind for kind, names in _NAMES["calls"].items() for name in names.split()}
MODULES = {getattr(nn, name): kind for kind, names in _NAMES["layers"].items() for name in names.split()}
# Layers of other packages, which need not be installed.
BY_NAME = {"StochasticDepth": "elementwise", "DropPath": "elementwise", "Sqish": "elementwise"}


def name_of(node: fx.Node) -> str:
    """Return the plain name of what a node calls: "add" for `operator.iadd`'s, `torch.add`'s and `.add_()`'s."""
    name = str(getattr(node.target, "__name__", node.target))
    plain = name.rstrip("_") if not name.startswith("__") else name.strip("_")
    return plain.removeprefix("_")


def kind_of(node: fx.Node, layer: nn.Module | None) -> str:
    """Return what a call does to channels; "unknown" where nothing is known of it."""
    if layer is not None:
        return MODULES.get(type(layer)) or BY_NAME.get(type(layer).__name__, "unknown")
    if node.target is getattr:  # of a tensor: its transpose
        return "moves"
    return FUNCTIONS.get(name_of(node), "unknown")
