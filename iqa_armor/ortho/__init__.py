"""Orthogonal convolutions, the blocks made of them, and measured Lipschitz constants."""

from iqa_armor.ortho.aoc import AocConv2d
from iqa_armor.ortho.aol import AolConv2d
from iqa_armor.ortho.block import BACKENDS, Backend, Pool, RobustBlock
from iqa_armor.ortho.cayley import CayleyConv2d
from iqa_armor.ortho.gains import Gains, extreme_gains
from iqa_armor.ortho.initialize import initialize_identity
from iqa_armor.ortho.layer import FoldedConv2d, OrthogonalConv2d
from iqa_armor.ortho.lipschitz import largest_singular_value, singular_values
from iqa_armor.ortho.tokens import TokenBlock

__all__ = [
    "BACKENDS",
    "AocConv2d",
    "AolConv2d",
    "Backend",
    "CayleyConv2d",
    "FoldedConv2d",
    "Gains",
    "OrthogonalConv2d",
    "Pool",
    "RobustBlock",
    "TokenBlock",
    "extreme_gains",
    "initialize_identity",
    "largest_singular_value",
    "singular_values",
]
