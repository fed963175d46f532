"""Edit a traced network: put blocks in, average over views, change the unit of its scores."""

import operator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from iqa_armor.errors import SurgeryError, failing
from iqa_armor.graph.calls import called_name, is_convolution, layer_of
from iqa_armor.graph.interpret import interpret, record_sizes, size_of
from iqa_armor.graph.walk import descendants
from iqa_armor.ortho.block import RobustBlock, TokenBlock, initialize_identity
from iqa_armor.randomness import seeded
from iqa_armor.recipe import Recipe
from iqa_armor.surgery.tokens import Lineage, TokenGrid, token_grid

Taps = Literal["all", "trunk"]
RESHAPES = ("flatten", "squeeze", "view", "reshape", "unsqueeze")
MOVES = {1: (0,), 2: (0,), 4: (0, 16), 8: (0, 8, 16, 24)}  # pixels down and to the right, by the number of views


def splice(traced: fx.GraphModule, cut: fx.Node, block: nn.Module, *, taps: Taps = "all") -> str:
    """Route the tensor (N, C, H, W) of `cut` through `block`, (N, C, H', W'), in place; return the block's name there.

    Its readers get the block's output: with taps "all" every one, with "trunk" those that lead to convolutions, others
    keep a way around it. Raises SurgeryError if there is none, or a block already stands there.
    """
    readers = [
        user for user in cut.users if taps == "all" or any(is_convolution(traced, node) for node in descendants(user))
    ]
    if not readers:
        raise SurgeryError(f"nothing reads {cut.name!r}; a block there would change no score")
    name = f"robust_{cut.name}"
    if hasattr(traced, name):
        raise SurgeryError(f"a block already stands on {cut.name!r}; choose another --position")
    traced.add_submodule(name, block)
    with traced.graph.inserting_after(cut):
        inserted = traced.graph.call_module(name, (cut,))
    # The block itself must keep reading `cut`, or it would feed on its own output.
    cut.replace_all_uses_with(inserted, delete_user_cb=lambda user: user in readers)
    traced.graph.lint()
    traced.recompile()
    return name


@dataclass(frozen=True)
class InstalledBlock:
    """The node that a block stands on, its channels and the map or grid (height, width) there."""

    node: str
    channels: int
    size: tuple[int, int]


def install(
    traced: fx.GraphModule, names: dict[str, str], recipe: Recipe, *, calibration: Tensor
) -> tuple[InstalledBlock, ...]:
    """Replace placeholders by blocks of the width that they stand at, in place; nodes get their sizes anew.

    `names` has the node that a placeholder stands on, by the placeholder's name; calibration is a normalised input
    (N, 3, H, W). Raises SurgeryError if no block fits there, or square pooling would change the number of tokens.
    """
    record_sizes(traced, calibration[:1])
    lineage = Lineage(traced)
    nodes = {str(node.target): node for node in traced.graph.nodes if node.op == "call_module"}
    blocks: list[InstalledBlock] = []
    for name, cut in names.items():
        grid, size = token_grid(lineage, nodes[name]), size_of(nodes[name]) or ()
        place = InstalledBlock(cut, grid.channels if grid else size[1], grid.size if grid else (size[2], size[3]))
        block = _new_block(recipe, place.channels, grid, seed=recipe.seed + len(blocks)).to(calibration.device)
        if recipe.init == "identity":
            with torch.no_grad():  # an empty place gives what it gets
                value = next(value for node, value in interpret(traced, calibration) if node is nodes[name])
            maps, robust = (block.maps(value), block.block) if isinstance(block, TokenBlock) else (value, block)
            initialize_identity(robust, maps)
        traced.set_submodule(name, block.eval())
        blocks.append(place)
    record_sizes(traced, calibration[:1])
    return tuple(blocks)


def _new_block(recipe: Recipe, channels: int, grid: TokenGrid | None, *, seed: int) -> RobustBlock | TokenBlock:
    if grid and recipe.pool == "square" and grid.size[0] != grid.size[1]:
        place = "a grid of {}x{}".format(*grid.size)
        raise SurgeryError(f"square pooling would change the number of tokens on {place}; pass --pool none")
    with failing("no block fits there", (ValueError,), error=SurgeryError), seeded(seed):
        if grid:
            return TokenBlock(channels, size=grid.size, extra=grid.extra, backend=recipe.backend)
        return RobustBlock(channels, backend=recipe.backend, pool=recipe.pool)


def rescale_output(traced: fx.GraphModule, *, gain: float, offset: float) -> None:
    """Make a network give gain · score + offset, in place; a ValueError if the gain is zero."""
    if gain == 0:
        raise ValueError("a gain of 0 would make every score the same")
    output = traced.graph.output_node()
    (scores,) = output.all_input_nodes
    if (place := last_linear(traced)) is not None:
        layer: Any = traced.get_submodule(place)
        with torch.no_grad():
            layer.weight *= gain
            layer.bias.mul_(gain).add_(offset)
        return
    with traced.graph.inserting_before(output):
        scaled = traced.graph.call_function(operator.mul, (scores, gain))
        shifted = traced.graph.call_function(operator.add, (scaled, offset))
    output.replace_input_with(scores, shifted)
    traced.graph.lint()
    traced.recompile()


def last_linear(traced: fx.GraphModule) -> str | None:
    """Return the name of the linear layer with a bias, called once, that the scores are a mere reshaping of."""
    (node,) = traced.graph.output_node().all_input_nodes
    while len(node.users) == 1:
        layer = layer_of(traced, node)
        if isinstance(layer, nn.Linear):
            calls = [other for other in traced.graph.nodes if (other.op, other.target) == (node.op, node.target)]
            return str(node.target) if layer.bias is not None and len(calls) == 1 else None
        if not (isinstance(layer, nn.Flatten | nn.Identity) or called_name(node) in RESHAPES):
            return None
        node = node.all_input_nodes[0]
    return None


def average_views(traced: fx.GraphModule, views: int) -> None:
    """Make a network give the mean of its scores over views of each image, in place; calls take as many times as long.

    Two views are the image and its mirror image, four also both moved down and to the right by 16 pixels, eight by 8,
    16 and 24 pixels; what was in the image is mirrored into the free edge. Gradients agree less from view to view than
    scores do, above all where strides skip pixels. The graph maps (N, 3, H, W) to (N,) or (N, 1), else a SurgeryError.
    Source: ours. That strides make scores depend on small moves: Zhang, "Making Convolutional Networks Shift-Invariant
    Again", ICML 2019.
    """
    if views == 1:
        return
    graph, moves = traced.graph, MOVES[views]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise SurgeryError(f"views are made of one image, and this network takes {len(inputs)}; pass --views 1")
    (image,), output = inputs, graph.output_node()
    _check_size(size_of(image) or (), views)
    readers, (scores,) = list(image.users), output.all_input_nodes
    with graph.inserting_after(image):
        after = graph.call_function(torch.cat, ([image], 0))
    with graph.inserting_before(after):
        edge, parts, whole = moves[-1], [], slice(None)
        padded = graph.call_function(functional.pad, (image, (edge, 0, edge, 0), "reflect")) if edge else image
        for move in moves:
            window = slice(edge - move, -move or None)
            moved = graph.call_function(operator.getitem, (padded, (whole, whole, window, window))) if edge else image
            parts += [moved, graph.call_function(torch.flip, (moved, (-1,)))]
    after.args = (parts, 0)
    for reader in readers:
        reader.replace_input_with(image, after)
    with graph.inserting_before(output):
        each = graph.call_function(torch.unflatten, (scores, 0, (2 * len(moves), -1)))
        output.replace_input_with(scores, graph.call_function(torch.mean, (each, 0)))
    graph.lint()
    traced.recompile()


def moved_at_random(images: Tensor, views: int, *, generator: torch.Generator) -> Tensor:
    """Return images (N, 3, H, W) moved together as one view is, without mirroring; SurgeryError where too small."""
    if len(MOVES[views]) == 1:
        return images
    _check_size(tuple(images.shape), views)
    edge = MOVES[views][int(torch.randint(len(MOVES[views]), (), generator=generator))]
    return functional.pad(images, (edge, 0, edge, 0), "reflect")[..., : images.shape[-2], : images.shape[-1]]


def _check_size(size: tuple[int, ...], views: int) -> None:
    if size and min(size[-2:]) <= MOVES[views][-1]:
        problem = f"{views} views move images by up to {MOVES[views][-1]} pixels, and these are {size[-2]}x{size[-1]}"
        raise SurgeryError(f"{problem}; pass --views 2, or a larger --input-size")
