"""Structured pruning of traced networks."""

from iqa_armor.pruning.importance import CRITERIA, Criterion
from iqa_armor.pruning.prune import Pruned, prune

__all__ = ["CRITERIA", "Criterion", "Pruned", "prune"]
