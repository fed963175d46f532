"""Smoothers of scores by noise on the image, with bounds within an L2 radius."""

from iqa_armor.defenses.smoothing.bounds import mean_bounds, median_bounds, order_indices
from iqa_armor.defenses.smoothing.inputs import BoundMean, BoundMedian, InputSmoothing, MeanSmoothing, MedianSmoothing
from iqa_armor.defenses.smoothing.noisy import NoisyScores
from iqa_armor.defenses.smoothing.words import SMOOTHERS, parse_smoother

__all__ = [
    "SMOOTHERS",
    "BoundMean",
    "BoundMedian",
    "InputSmoothing",
    "MeanSmoothing",
    "MedianSmoothing",
    "NoisyScores",
    "mean_bounds",
    "median_bounds",
    "order_indices",
    "parse_smoother",
]
