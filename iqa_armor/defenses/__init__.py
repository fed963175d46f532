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

__all__ = [
    "PURIFIERS",
    "Approximated",
    "BoundSmoother",
    "Certificate",
    "Defended",
    "Purified",
    "Purifier",
    "Smoother",
    "Threat",
    "parse_chain",
    "parse_purifier",
    "replace_activations",
]
