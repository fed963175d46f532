"""Structured pruning of traced networks."""

from iqa_armor.pruning.importance import ACROSS_LAYERS, CRITERIA, FROM_SAMPLES, Criterion
from iqa_armor.pruning.prune import Pruned, prune

__all__ = ["ACROSS_LAYERS", "CRITERIA", "FROM_SAMPLES", "Criterion", "Pruned", "prune"]
