"""Defenses of a network and around one: activations, purifiers of its images, smoothers of its scores."""

from __future__ import annotations

from iqa_armor.defenses.activations import replace_activations
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
from iqa_armor.defenses.purifiers import PURIFIERS, parse_chain, parse_purifier
from iqa_armor.defenses.smoothed import Smoothed
from iqa_armor.defenses.smoothing import SMOOTHERS, MeanSmoothing, MedianSmoothing, parse_smoother

__all__ = [
    "PURIFIERS",
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
    "parse_chain",
    "parse_purifier",
    "parse_smoother",
    "replace_activations",
]
