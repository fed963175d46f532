"""Read an attack from a word of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

from iqa_armor.attacks.base import Attack
from iqa_armor.attacks.pgd import PGD
from iqa_armor.words import change, read_word

KIND = "attack"
LEVELS = 255.0


def parse_word(text: str, known: Mapping[str, Attack]) -> Attack:
    """Return the attack that `NAME` or `NAME:key=value,…` means; see `parse_attack`.

    Raises:
        UsageError: If the name or a hyperparameter is unknown, or a value is not allowed.
    """
    name, _, settings = text.partition(":")
    pgd_steps = re.fullmatch(r"pgd([1-9]\d{0,4})", name)
    if pgd_steps and name not in known:
        return change(PGD(steps=int(pgd_steps[1])), settings, text=text, kind=KIND, unit=_unit)
    return read_word(text, known, kind=KIND, unit=_unit, hint=", and pgdN for N steps")


def in_pixel_values(attack: Attack, key: str) -> bool:
    """Return whether a hyperparameter is a pixel value, which the command line writes in 1/255."""
    return key == "step_size" or (key == "epsilon" and attack.norm in ("linf", "rmse"))


def _unit(attack: Attack, key: str) -> float:
    return LEVELS if in_pixel_values(attack, key) else 1.0
