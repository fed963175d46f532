"""Surgery on a traced network: trace it, find its cuts, splice a block in."""

from iqa_armor.surgery.flow import Flow
from iqa_armor.surgery.rescale import rescale_output
from iqa_armor.surgery.splice import Taps, splice
from iqa_armor.surgery.stages import Branch, Cut, branches, choose
from iqa_armor.surgery.tokens import TokenGrid, token_grid, token_grids
from iqa_armor.surgery.trace import propagate_sizes, size_of, trace

__all__ = [
    "Branch",
    "Cut",
    "Flow",
    "Taps",
    "TokenGrid",
    "branches",
    "choose",
    "propagate_sizes",
    "rescale_output",
    "size_of",
    "splice",
    "token_grid",
    "token_grids",
    "trace",
]
