"""Keep the state of an interrupted fit, so that it continues where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from iqa_armor.errors import RecipeError


def write_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values with torch.save, so that `path` is never seen half-written.

    Args:
        state: Nested dictionaries and lists of tensors, numbers and strings.
        path: File to write; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path, *, fingerprint: str) -> dict[str, Any]:
    """Return the state that `write_atomically` kept.

    Args:
        path: File to read; only tensors and plain values are accepted.
        fingerprint: What the state must have been made from.

    Raises:
        RecipeError: If the file is broken, or was made from another model, other data or other settings.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise RecipeError(f"{path} is no usable checkpoint; run without --resume to start afresh") from error
    if state.get("fingerprint") != fingerprint:
        raise RecipeError(
            f"{path} was made from another model, other data or other settings; run with the same ones, or without "
            "--resume to start afresh"
        )
    return state


def fingerprint_of(values: Mapping[str, Any]) -> str:
    """Return a digest (16 hexadecimal digits) of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
