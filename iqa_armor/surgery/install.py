"""Put blocks where splicing left placeholders."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.interpret import interpret
from iqa_armor.graph.sizes import record_sizes, size_of
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.initialize import initialize_identity
from iqa_armor.ortho.tokens import TokenBlock
from iqa_armor.randomness import seeded
from iqa_armor.recipe import Recipe
from iqa_armor.surgery.lineage import Lineage
from iqa_armor.surgery.tokens import TokenGrid, token_grid


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
        grid = token_grid(lineage, nodes[name])
        size = size_of(nodes[name]) or ()
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
        raise SurgeryError(
            "square pooling would change the number of tokens on a grid of {}x{}; pass --pool none".format(*grid.size)
        )
    try:
        with seeded(seed):
            if grid:
                return TokenBlock(channels, size=grid.size, extra=grid.extra, backend=recipe.backend)
            return RobustBlock(channels, backend=recipe.backend, pool=recipe.pool)
    except ValueError as error:
        raise SurgeryError(f"no block fits there: {error}") from error
