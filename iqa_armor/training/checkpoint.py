"""Keep the state of an interrupted fit, so that it continues where it stopped."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iqa_armor.errors import OutputError, RecipeError
from iqa_armor.files import replacing, require_writable


@dataclass(frozen=True)
class Checkpoint:
    """A file that keeps the state of one fit."""

    path: Path
    fingerprint: str = ""  # of what the state is made from: model, data and settings
    resumes: bool = False  # whether a fit continues from the file, where there is one

    def prepare(self) -> None:
        """Make the folder and remove what killed runs left of this file; an OutputError if it cannot be written."""
        require_writable(self.path)
        # Version 0.1.0 wrote under such names before it renamed.
        for leftover in self.path.parent.glob(f".{self.path.name}.{'[a-z0-9_]' * 8}"):
            leftover.unlink(missing_ok=True)

    def write(self, state: Mapping[str, Any]) -> None:
        """Write nested dictionaries and lists of tensors, numbers and strings, whole or not at all."""
        with replacing(self.path) as unfinished:
            try:
                torch.save({"fingerprint": self.fingerprint, **state}, unfinished)
            except RuntimeError as error:  # what becomes of an OSError in there
                raise OutputError(f"cannot write {self.path}: is the disk full? name another place with -o") from error

    def read(self) -> dict[str, Any]:
        """Return the state that was written last; only tensors and plain values are accepted.

        Raises:
            RecipeError: If the file is broken, or was made from another model, other data or other settings.
        """
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise RecipeError(f"{self.path} is no usable checkpoint; run without --resume to start afresh") from error
        if not isinstance(state, dict) or state.get("fingerprint") != self.fingerprint:
            raise RecipeError(
                f"{self.path} was made from another model, other data or other settings; run with the same ones, or "
                "without --resume to start afresh"
            )
        return state


def fingerprint_of(**values: Any) -> str:
    """Return a digest (16 hexadecimal digits) of plain values by name."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
