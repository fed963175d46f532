"""Read an attack from a word of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from iqa_armor.attacks.base import Attack
from iqa_armor.attacks.pgd import PGD
from iqa_armor.errors import UsageError

SWITCHES = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def parse_word(text: str, known: Mapping[str, Attack]) -> Attack:
    """Return the attack that `NAME` or `NAME:key=value,…` means; see `parse_attack`.

    Raises:
        UsageError: If the name or a hyperparameter is unknown, or a value is not allowed.
    """
    name, _, settings = text.partition(":")
    pgd_steps = re.fullmatch(r"pgd([1-9]\d{0,4})", name)
    if pgd_steps and name not in known:
        attack: Any = PGD(steps=int(pgd_steps[1]))
    elif name in known:
        attack = known[name]
    else:
        raise UsageError(f"unknown attack {name!r}; known are {', '.join(known)}, and pgdN for N steps")
    changes = dict(_setting(attack, pair) for pair in settings.split(",")) if settings else {}
    try:
        return replace(attack, **changes)  # type: ignore[no-any-return]
    except ValueError as error:
        raise UsageError(f"attack {text!r}: {error}") from error


def _setting(attack: Any, pair: str) -> tuple[str, int | float | str | bool]:
    key, _, value = pair.partition("=")
    known = {field.name: type(getattr(attack, field.name)) for field in fields(attack) if field.init}
    if key not in known:
        raise UsageError(f"unknown attack setting {key!r}; known are {', '.join(known)}")
    try:
        read = SWITCHES[value.lower()] if known[key] is bool else known[key](value)
    except (ValueError, KeyError) as error:
        raise UsageError(f"attack setting {key} must be {known[key].__name__}, got {value!r}") from error
    return key, read / 255 if in_pixel_values(attack, key) else read


def in_pixel_values(attack: Attack, key: str) -> bool:
    """Return whether a hyperparameter is a pixel value, which the command line writes in 1/255."""
    return key == "step_size" or (key == "epsilon" and attack.norm in ("linf", "rmse"))
