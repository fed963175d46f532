"""Say in a user's words what a network fails at: the cause, the layer, the line of source."""

import linecache
import sys
import traceback
from pathlib import Path
from types import FrameType

import torch
from torch import fx, nn

from iqa_armor.graph.calls import called_name, layer_of

Line = tuple[str, int]
LONGEST = 400  # characters of a cause
_MACHINERY = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


class NodeFailure(Exception):
    """A node that fails on its inputs; the text names cause, layer and line, `__cause__` is the error itself."""


def cause_of(error: BaseException) -> str:
    """Return the first paragraph of what an error says on one line, with its kind where the text alone says little."""
    text = " ".join(str(error).strip().split("\n\n")[0].split())
    kind = type(error).__name__
    if not text:
        return kind
    says_enough = isinstance(error, RuntimeError | ValueError | AssertionError)
    return (text if says_enough else f"{kind}: {text}")[:LONGEST]


def failure_at(node: fx.Node, traced: nn.Module, error: BaseException) -> NodeFailure:
    """Return the failure of a node of a traced network; raise it from the error."""
    line = node.meta.get("line")
    place = f" ({shown_line(line)})" if line else ""
    return NodeFailure(f"{_described(node, traced)}: {cause_of(error)}{place}")


def calling_line(caller: str) -> Line | None:
    """Return file and number of the innermost line of a network's own code that runs now, called from file `caller`."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != caller:
        if not frame.f_code.co_filename.startswith(_MACHINERY):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def failing_line(error: BaseException) -> Line | None:
    """Return file and number of the innermost line of a network's own code in an error's traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_MACHINERY)]
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else None


def shown_line(line: Line) -> str:
    """Return a line of source as messages show it: file, number, text."""
    path, number = line
    return f"{Path(path).name}:{number}: {linecache.getline(path, number).strip()}"


def place_of(node: fx.Node) -> str:
    """Return the path of the innermost module whose code made a node; "" is the network's own."""
    inside = [str(path) for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    return inside[-1] if inside else ""


def _described(node: fx.Node, traced: nn.Module) -> str:
    layer = layer_of(traced, node)
    if layer is not None:
        return f"layer {str(node.target)!r} ({type(layer).__name__})"
    place = place_of(node)
    owner = f" in {place!r}" if place else ""
    return f"{called_name(node) or node.op} (node {node.name!r}{owner})"
