"""Randomness that depends on what it is for, not on what else is drawn or in which order."""

import hashlib

from torch import Generator

from iqa_armor.defenses.base import Defended
from iqa_armor.models.base import QualityModel


def restart(model: QualityModel, seed: int, *purpose: object) -> Generator:
    """Let what a defense draws from now on follow from the purpose alone, and return randomness for an attack on it."""
    if isinstance(model, Defended):
        model.reseed(_seed_for(seed, "defense", *purpose))
    return Generator(device=model.mean.device).manual_seed(_seed_for(seed, *purpose))


def _seed_for(seed: int, *purpose: object) -> int:
    words = "\n".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")
