"""Purifiers, and chains of them, from the words that name them."""

from __future__ import annotations

import re

from iqa_armor.defenses.base import Purifier
from iqa_armor.defenses.purifiers import PURIFIERS
from iqa_armor.defenses.purifiers.purifier_file import PurifierFile
from iqa_armor.errors import UsageError

# What a user's own purifier begins with: `file.py:NAME` or `package.module:NAME`.
_OWN = r"[^+:,=]+\.py:[A-Za-z_]\w*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?!\w*=)"


def read_chain(text: str) -> dict[str, Purifier]:
    """Return purifiers that are applied one after the other, by their words.

    Args:
        text: Words as `read_purifier` takes them, joined by "+": "jpeg:quality=60+flip".

    Raises:
        UsageError: As `read_purifier`, or if a word stands there twice.
    """
    known = "|".join(map(re.escape, PURIFIERS.names()))
    words = re.split(rf"\+(?=(?:{known}|{_OWN})(?:[:+]|$))", text)
    if len(set(words)) < len(words):
        raise UsageError(f"the chain {text!r} names a purifier twice with the same settings; once is enough")
    return {word: read_purifier(word) for word in words}


def read_purifier(word: str) -> Purifier:
    """Return the purifier that a word means, loaded where it is read from a file.

    Args:
        word: What `PURIFIERS` reads.

    Raises:
        UsageError: If the name or a setting is unknown, a value is not allowed, or a path is not given.
        ModelLoadError: If a file is missing, or not what it should be.
        ArmorError: If an optional extra is missing.
    """
    purifier = PURIFIERS.read(word)
    if not isinstance(purifier, PurifierFile):
        return purifier
    if not purifier.path:
        raise UsageError(f"purifier {word!r} needs a path: {word.partition(':')[0]}:path=…")
    return purifier.load()


def accepted(found: object, name: str) -> Purifier | PurifierFile:
    """Return what a user named as a purifier.

    Raises:
        UsageError: If it is none.
    """
    if isinstance(found, Purifier | PurifierFile) and not isinstance(found, type):
        return found
    raise UsageError(
        f"{name} is no purifier: it must have is_differentiable and is_random, and be called with (images, generator)"
    )
