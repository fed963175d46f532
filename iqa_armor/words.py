"""Read a value with hyperparameters from a word of the command line: `NAME` or `NAME:key=value,…`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from iqa_armor.errors import UsageError

T = TypeVar("T")
Setting = int | float | str | bool
SWITCHES = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def unscaled(value: Any, key: str) -> float:  # noqa: ARG001
    """Return 1: hyperparameters are written in the unit that the value keeps them in."""
    return 1.0


def read_word(
    text: str, known: Mapping[str, T], *, kind: str, unit: Callable[[T, str], float] = unscaled, hint: str = ""
) -> T:
    """Return the value that a word means: one of `known`, with the settings that the word changes.

    Args:
        text: `NAME` or `NAME:key=value,…`; keys are the fields of the value, a frozen dataclass.
        known: Values by name, with their default settings, each an int, float, str or bool.
        kind: What messages call such a value.
        unit: Number that a field's text is divided by.
        hint: What else is known, said where a name is not.

    Raises:
        UsageError: If the name or a setting is unknown, or a value is not allowed.
    """
    name, _, settings = text.partition(":")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown {kind} {name!r}; {meant}known are {', '.join(known)}{hint}")
    return change(known[name], settings, text=text, kind=kind, unit=unit)


def change(value: T, settings: str, *, text: str, kind: str, unit: Callable[[T, str], float] = unscaled) -> T:
    """Return a frozen dataclass with the settings `key=value,…` changed; arguments and errors as in `read_word`."""
    changed: Any = value
    changes = dict(_setting(value, pair, kind, unit) for pair in settings.split(",")) if settings else {}
    try:
        return replace(changed, **changes)  # type: ignore[no-any-return]
    except ValueError as error:
        raise UsageError(f"{kind} {text!r}: {error}") from error


def _setting(value: Any, pair: str, kind: str, unit: Callable[[Any, str], float]) -> tuple[str, Setting]:
    key, _, written = pair.partition("=")
    types = {field.name: type(getattr(value, field.name)) for field in fields(value) if field.init}
    if key not in types:
        allowed = f"known are {', '.join(types)}" if types else "it has none"
        raise UsageError(f"unknown {kind} setting {key!r}; {allowed}")
    try:
        read: Setting = SWITCHES[written.lower()] if types[key] is bool else types[key](written)
    except (ValueError, KeyError) as error:
        raise UsageError(f"{kind} setting {key} must be {types[key].__name__}, got {written!r}") from error
    divisor = unit(value, key)
    return key, read if divisor == 1 or isinstance(read, str) else read / divisor
