"""Defenses around a model: purifiers of its images and smoothers of its scores."""

from __future__ import annotations

from iqa_armor.defenses.base import (
    Approximated,
    BoundSmoother,
    Certificate,
    Defended,
    Purifier,
    Smoother,
    Threat,
)
from iqa_armor.defenses.purified import Purified
from iqa_armor.defenses.smoothed import Smoothed
from iqa_armor.defenses.smoothing import SMOOTHERS, MeanSmoothing, MedianSmoothing, parse_smoother

__all__ = [
    "SMOOTHERS",
    "Approximated",
    "BoundSmoother",
    "Certificate",
    "Defended",
    "MeanSmoothing",
    "MedianSmoothing",
    "Purified",
    "Purifier",
    "Smoothed",
    "Smoother",
    "Threat",
    "parse_smoother",
]
