"""Attacks on a scalar quality score: small frozen values, called with a score function and images."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

from iqa_armor.attacks.base import (
    Attack,
    Batches,
    Direction,
    Fitted,
    Norm,
    ScoreFn,
    frozen,
    project_linf,
    score_gradient,
)
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.sweep import Attacked, at_epsilon, run_sweep
from iqa_armor.errors import UsageError

__all__ = [
    "ATTACKS",
    "PGD",
    "Attack",
    "Attacked",
    "Batches",
    "Direction",
    "Fitted",
    "Norm",
    "ScoreFn",
    "at_epsilon",
    "frozen",
    "parse_attack",
    "project_linf",
    "run_sweep",
    "score_gradient",
]

ATTACKS: dict[str, Attack] = {"pgd1": PGD(steps=1), "pgd8": PGD(steps=8), "pgd": PGD()}
PIXEL_UNITS = ("epsilon", "step_size")  # written in 1/255, stored in [0, 1]


def parse_attack(text: str) -> Attack:
    """Return the attack named by a word of the command line.

    Args:
        text: A name in `ATTACKS`; `pgdN` for N steps; or `NAME:key=value,…` with the attack's own
            hyperparameters, of which `epsilon` and `step_size` are in 1/255.

    Raises:
        UsageError: If the name or a hyperparameter is unknown, or a value is not allowed.
    """
    name, _, settings = text.partition(":")
    pgd_steps = re.fullmatch(r"pgd([1-9]\d{0,4})", name)
    if pgd_steps and name not in ATTACKS:
        attack: Any = PGD(steps=int(pgd_steps[1]))
    elif name in ATTACKS:
        attack = ATTACKS[name]
    else:
        raise UsageError(f"unknown attack {name!r}; known are {', '.join(ATTACKS)}, and pgdN for N steps")
    changes = dict(_parse_setting(attack, pair) for pair in settings.split(",")) if settings else {}
    try:
        return replace(attack, **changes)  # type: ignore[no-any-return]
    except ValueError as error:
        raise UsageError(f"attack {text!r}: {error}") from error


def _parse_setting(attack: Any, pair: str) -> tuple[str, int | float]:
    key, _, value = pair.partition("=")
    known = {field.name: type(getattr(attack, field.name)) for field in fields(attack)}
    if key not in known:
        raise UsageError(f"unknown attack setting {key!r}; known are {', '.join(known)}")
    try:
        number = known[key](value)
    except ValueError as error:
        raise UsageError(f"attack setting {key} must be {known[key].__name__}, got {value!r}") from error
    return key, number / 255 if key in PIXEL_UNITS else number
