"""Purifiers, chains of them, and their files, from the words that name them."""

import re
from pathlib import Path

from iqa_armor.defenses.base import Purifier, PurifierFile
from iqa_armor.defenses.purifiers import PURIFIERS
from iqa_armor.errors import ModelLoadError, UsageError

# What a user's own purifier begins with: `file.py:NAME` or `package.module:NAME`.
_OWN = r"[^+:,=]+\.py:[A-Za-z_]\w*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?!\w*=)"


def read_chain(text: str) -> dict[str, Purifier]:
    """Return purifiers by their words, joined by "+" in the order of their application: "jpeg:quality=60+flip".

    Errors are those of `read_purifier`, and a UsageError where a word stands there twice.
    """
    known = "|".join(map(re.escape, PURIFIERS.names()))
    words = re.split(rf"\+(?=(?:{known}|{_OWN})(?:[:+]|$))", text)
    if len(set(words)) < len(words):
        raise UsageError(f"the chain {text!r} names a purifier twice with the same settings; once is enough")
    return {word: read_purifier(word) for word in words}


def read_purifier(word: str) -> Purifier:
    """Return the purifier that a word of `PURIFIERS` means, loaded where it is read from a file.

    A UsageError refuses the word, a ModelLoadError the file; an ArmorError names an optional extra that is missing.
    """
    purifier = PURIFIERS.read(word)
    if not isinstance(purifier, PurifierFile):
        return purifier
    if not purifier.path:
        raise UsageError(f"purifier {word!r} needs a path: {word.partition(':')[0]}:path=…")
    return purifier.load()


def existing(path: str, *, owner: str, is_folder: bool = False) -> Path:
    """Return a path that is there, and is a file or a folder as wanted; a ModelLoadError refuses others."""
    found, wanted = Path(path), "folder" if is_folder else "file"
    if not (found.is_dir() if is_folder else found.is_file()):
        seen = "is a file" if found.is_file() else "is a folder" if found.is_dir() else "does not exist"
        raise ModelLoadError(f"{path} {seen}; the purifier {owner} takes a {wanted}: {owner}:path={wanted.upper()}")
    return found
