"""Checks of the constructor arguments that a file asks for; each returns the argument or refuses it."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from iqa_armor.artifact.limits import FormatError, expect_fields, shown

ArgumentCheck = Callable[[object], object]

_LARGEST = sys.float_info.max  # whole numbers may be larger, and no float then
MAX_CHANNELS = 2**17
MAX_KERNEL = 2**10
MAX_PADDING = 2**10


def flag(value: object) -> bool:
    """Return a truth value."""
    if not isinstance(value, bool):
        raise FormatError(f"must be true or false, got {shown(value)}")
    return value


def integer(low: int, high: int) -> ArgumentCheck:
    """Return a check for a whole number in [low, high]."""

    def check(value: object) -> object:
        if type(value) is not int or not low <= value <= high:
            raise FormatError(f"must be a whole number from {low} to {high}, got {shown(value)}")
        return value

    return check


def number(low: float = -math.inf, high: float = math.inf) -> ArgumentCheck:
    """Return a check for a finite number in [low, high]."""

    def check(value: object) -> object:
        if type(value) not in (int, float) or not max(low, -_LARGEST) <= value <= min(high, _LARGEST):  # type: ignore[operator]
            raise FormatError(f"must be a finite number from {low} to {high}, got {shown(value)}")
        return value

    return check


def choice(*texts: str) -> ArgumentCheck:
    """Return a check for one of the given strings."""

    def check(value: object) -> object:
        if value not in texts or not isinstance(value, str):
            raise FormatError(f"must be one of {', '.join(texts)}, got {shown(value)}")
        return value

    return check


def sequence(part: ArgumentCheck, shortest: int, longest: int | None = None) -> ArgumentCheck:
    """Return a check for an array of `shortest` to `longest` parts, which becomes a tuple."""
    most = longest or shortest

    def check(value: object) -> object:
        if not isinstance(value, list) or not shortest <= len(value) <= most:
            raise FormatError(f"must be an array of {shortest} to {most} values, got {shown(value)}")
        return tuple(part(item) for item in value)

    return check


def either(first: ArgumentCheck, second: ArgumentCheck) -> ArgumentCheck:
    """Return a check that passes what one of two checks passes."""

    def check(value: object) -> object:
        try:
            return first(value)
        except FormatError as error:
            try:
                return second(value)
            except FormatError as other:
                raise FormatError(f"{error}; or it {other}") from None

    return check


def optional(check: ArgumentCheck) -> ArgumentCheck:
    """Return a check that also passes null."""
    return lambda value: None if value is None else check(value)


def per_axis(axes: int, low: int, high: int) -> ArgumentCheck:
    """Return a check for one whole number in [low, high], or one for each spatial axis."""
    return either(integer(low, high), sequence(integer(low, high), axes))


def checked_fields(stored: object, checks: Mapping[str, ArgumentCheck], where: str) -> dict[str, Any]:
    """Return a JSON object that has exactly the fields of `checks`, each as its check returns it."""
    fields = expect_fields(stored, frozenset(checks), where)
    checked = {}
    for name, check in checks.items():
        try:
            checked[name] = check(fields[name])
        except FormatError as error:
            raise FormatError(f"{where}: {name} {error}") from error
    return checked


channels = integer(1, MAX_CHANNELS)
any_number = number()
dimension = integer(-8, 8)
share = number(0, 1)
epsilon = number(0, 1e6)
