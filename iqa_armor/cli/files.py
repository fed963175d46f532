"""Text files that commands write: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from iqa_armor.errors import UsageError


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written, before any work is done; its folder is made.

    Raises:
        UsageError: If the path is a folder, or its folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder of {path}: {error.strerror}; name another file") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: it is a folder, or its folder is read-only; name another file")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 so that it is never seen half-written.

    Raises:
        UsageError: If it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}; name another file") from error
