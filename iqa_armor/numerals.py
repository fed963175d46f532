"""Numbers that a user writes."""

from __future__ import annotations

import re


def whole_number(text: str) -> int:
    """Return a number ≥ 0 that is written in the digits 0 to 9, at most 19 of them.

    `int` takes digits of other scripts, underscores and signs too, and `str.isdigit` says yes to "²", which `int` does
    not take.

    Raises:
        ValueError: If it is not.
    """
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError(f"a whole number is written in the digits 0 to 9, got {text[:40]!r}")
    return int(text)
