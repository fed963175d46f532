"""Put blocks where surgery left placeholders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from iqa_armor.errors import SurgeryError
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.initialize import initialize_identity
from iqa_armor.ortho.tokens import TokenBlock
from iqa_armor.recipe import Recipe
from iqa_armor.surgery import Flow, TokenGrid, propagate_sizes, size_of, token_grid


@dataclass(frozen=True)
class Block:
    """One installed block: the node it stands on, its channels and the map or grid (height, width) there."""

    node: str
    channels: int
    size: tuple[int, int]


def install(traced: fx.GraphModule, names: dict[str, str], recipe: Recipe, *, calibration: Tensor) -> tuple[Block, ...]:
    """Replace placeholders by blocks of the width that they stand at, in place.

    Args:
        traced: Network with placeholders; its nodes get their sizes anew.
        names: Node that a placeholder stands on, by the placeholder's name.
        recipe: Backend, pooling, initialisation and seed of the blocks.
        calibration: Normalised input (N, 3, H, W) on the network's device.

    Raises:
        SurgeryError: If no block fits there, or square pooling would change the number of tokens.
    """
    propagate_sizes(traced, calibration[:1])
    flow = Flow(traced)
    nodes = {str(node.target): node for node in traced.graph.nodes if node.op == "call_module"}
    blocks: list[Block] = []
    for name, cut in names.items():
        grid = token_grid(flow, nodes[name])
        channels, size = (grid.channels, grid.size) if grid else _map_of(nodes[name])
        block = _new_block(recipe, channels, grid, seed=recipe.seed + len(blocks)).to(calibration.device)
        if recipe.init == "identity":
            value = _value_at(traced, name, calibration)
            if isinstance(block, TokenBlock):
                initialize_identity(block.block, block.maps(value))
            else:
                initialize_identity(block, value)
        traced.set_submodule(name, block.eval())
        blocks.append(Block(cut, channels, size))
    propagate_sizes(traced, calibration[:1])
    return tuple(blocks)


def _map_of(node: fx.Node) -> tuple[int, tuple[int, int]]:
    _, channels, height, width = size_of(node) or (0, 0, 0, 0)
    return channels, (height, width)


def _new_block(recipe: Recipe, channels: int, grid: TokenGrid | None, *, seed: int) -> RobustBlock | TokenBlock:
    if grid and recipe.pool == "square" and grid.size[0] != grid.size[1]:
        raise SurgeryError(
            "square pooling would change the number of tokens on a grid of {}x{}; pass --pool none".format(*grid.size)
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if grid:
                return TokenBlock(channels, size=grid.size, extra=grid.extra, backend=recipe.backend)
            return RobustBlock(channels, backend=recipe.backend, pool=recipe.pool)
    except ValueError as error:
        raise SurgeryError(f"no block fits there: {error}") from error


def _value_at(traced: fx.GraphModule, name: str, inputs: Tensor) -> Tensor:
    """Return what the module called `name` gets for `inputs`."""
    caught: list[Tensor] = []
    handle = traced.get_submodule(name).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        with torch.no_grad():
            traced(inputs)
    finally:
        handle.remove()
    return caught[0]
