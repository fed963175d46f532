"""Keep the state of an interrupted fit, so that it continues where it stopped."""

import hashlib
import json
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iqa_armor.errors import OutputError, RecipeError, reading
from iqa_armor.files import replacing, require_writable
from iqa_armor.machine import capped

AFRESH = "run without --resume to start afresh"


@dataclass(frozen=True)
class Checkpoint:
    """A file that keeps the state of one fit."""

    path: Path
    fingerprint: str | Mapping[str, str] = ""  # of what the state is made from: model, data and settings
    resumes: bool = False  # whether a fit continues from the file, where there is one

    def prepare(self, takes: int = 0) -> None:
        """Make the folder, remove what killed runs left; an OutputError if it, or so many bytes, cannot be written."""
        require_writable(self.path)
        if takes > (free := shutil.disk_usage(self.path.parent).free):
            needed = f"which takes {takes / 2**20:.1f} MiB at least: there are {free / 2**20:.1f} MiB free"
            raise OutputError(f"cannot write {self.path}, {needed}; make room, or name another place with -o")
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
        """Return the state, tensors and plain values; a RecipeError refuses a damaged file, and that of another fit."""
        with reading(self.path, RecipeError, says="is no usable checkpoint", advice=AFRESH):
            with zipfile.ZipFile(self.path) as archive:  # torch itself compares no checksums
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is damaged")
            with capped(), warnings.catch_warnings(action="ignore"):  # of TorchScript, which it then refuses
                state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        kept = state.get("fingerprint") if isinstance(state, dict) else None
        if kept != self.fingerprint:
            named = ""
            if isinstance(kept, Mapping) and not isinstance(self.fingerprint, str):
                named = f" ({', '.join(n for n, value in self.fingerprint.items() if kept.get(n) != value)} differ)"
            made = f"was made from another model, other data or other settings{named}"
            raise RecipeError(f"{self.path} {made}; run with the same ones, or {AFRESH.partition(' ')[2]}")
        return state


def fingerprint_of(**values: Any) -> dict[str, str]:
    """Return digests (16 hexadecimal digits) of plain values by name."""
    texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in values.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
