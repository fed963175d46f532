"""What a file format of an export is, and which one a file's name asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.export import FORMATS
from iqa_armor.export.capture import Captured

if TYPE_CHECKING:
    from iqa_armor.export.smaller import Smaller

METADATA_KEY = "iqa_armor"
INPUT, OUTPUT = "images", "scores"

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """One kind of file, registered in `iqa_armor.export.FORMATS` under its suffix."""

    name: str  # what reports call it
    needs: tuple[str, ...]  # modules it takes, by import name
    write: Callable[[Captured, Path, str], None]  # writes a captured graph and a text of metadata to a path
    read: Callable[[Path], tuple[str, Score]]  # opens a file; returns its metadata and a function from images to scores
    install: str = ""  # what pip installs for `needs`, if it has another name
    beside: str = ""  # suffix of a second file that it writes beside the first
    shrink: Callable[[Path, Smaller], None] | None = None  # rewrites a file in fewer bits, where the format can

    def files(self, path: Path) -> list[Path]:
        """Return what an export to a path consists of."""
        return [path, *([path.with_suffix(self.beside)] if self.beside else [])]


def format_of(path: Path | str) -> Format:
    """Return the format that a file's name asks for, once everything it takes is installed."""
    path = Path(path)
    suffix = path.suffix[1:]
    if not FORMATS.knows(suffix):
        names = " or ".join(f"OUT.{name}" for name in FORMATS)
        raise UsageError(f"an export is named {names}, and {path.name!r} is not")
    chosen = FORMATS.read(suffix)
    missing = [name for name in chosen.needs if find_spec(name) is None]
    if missing:
        wanted = chosen.install or " ".join(missing)
        raise ArmorError(f"{chosen.name} takes {', '.join(missing)}, not installed here; run pip install {wanted}")
    return chosen
