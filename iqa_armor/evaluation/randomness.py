"""Randomness that depends on what it is for, not on what else is drawn or in which order."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator

from iqa_armor.defenses.base import Defended
from iqa_armor.models.base import QualityModel


def seed_for(seed: int, *purpose: object) -> int:
    """Return a seed of its own for a purpose."""
    words = "\n".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")


def generator_for(seed: int, device: torch.device, *purpose: object) -> Generator:
    """Return randomness of its own for a purpose."""
    return Generator(device=device).manual_seed(seed_for(seed, *purpose))


def reseed(model: QualityModel, seed: int, *purpose: object) -> None:
    """Let what a defense draws from now on follow from the purpose alone."""
    if isinstance(model, Defended):
        model.reseed(seed_for(seed, "defense", *purpose))
