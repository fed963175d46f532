"""Where the images that a label file names lie."""

import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from iqa_armor.data.images import EXTENSIONS
from iqa_armor.errors import is_file


@dataclass(frozen=True)
class Places:
    """Finder of image files, also of those whose names differ in Unicode form or are written without an extension."""

    starts: tuple[Path, ...]  # folders that relative paths may begin in, the preferred first
    roots: tuple[Path, ...]  # folders that images must lie in
    ignores_case: bool = False  # whether names may differ in upper and lower case, too
    _known: dict[Path, dict[str, list[Path]]] = field(default_factory=dict, repr=False)

    def find(self, name: str) -> Path | None:
        """Return the file of a path with forward slashes, or where it should lie; None where that is outside."""
        if PureWindowsPath(name).drive and os.name != "nt":
            return None
        starts = [
            start for start in self.starts if start in self.roots or _plain(start / name).is_relative_to(_plain(start))
        ]
        paths = [_plain(start / name) for start in starts]
        inside = [path for path in paths if self._holds(path)]
        return next(filter(None, map(self._existing, inside)), inside[0] if inside else None)

    def name_of(self, name: str, path: Path) -> str:
        """Return the name of an image, the same on every machine: as written or, if that leads out, from a root."""
        if not Path(name).is_absolute() and Path(os.path.normpath(name)).parts[:1] != ("..",):
            return name
        return min((os.path.relpath(path, root) for root in self.roots), key=lambda said: said.startswith(".."))

    def near(self, path: Path) -> str:
        """Say which neighbors differ only in case or extension, the usual reasons for a missing file."""
        folders = (path.parent, path.parent / "images")
        names = [each.name for folder in folders for each in _entries(folder) if _is_near(each, path)]
        return f" (there is {', '.join(sorted(names)[:3])})" if names else ""

    def _holds(self, path: Path) -> bool:
        with suppress(OSError, ValueError):
            return any(
                path.is_relative_to(_plain(root)) or path.resolve().is_relative_to(root.resolve())
                for root in self.roots
            )
        return False

    def _existing(self, path: Path) -> Path | None:
        if is_file(path):
            return path
        place = Path(path.anchor)
        with suppress(OSError, ValueError):
            for part in path.parts[1:]:
                is_there = (place / part).exists()
                found = [place / part] if is_there else self._listed(place).get(self._key(part), [])
                if len(found) != 1:
                    return None
                place = found[0]
            return place if is_file(place) else None
        return None

    def _listed(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._known:
            known: dict[str, list[Path]] = {}
            for path in _entries(folder):
                known.setdefault(self._key(path.name), []).append(path)
                if path.suffix.lower() in EXTENSIONS:
                    known.setdefault(self._key(path.stem), []).append(path)
            self._known[folder] = known
        return self._known[folder]

    def _key(self, name: str) -> str:
        same = unicodedata.normalize("NFC", name)
        return same.casefold() if self.ignores_case else same


def _plain(path: Path) -> Path:
    """Return an absolute path without "..", in which links stay what they are called."""
    return Path(os.path.normpath(path.absolute()))


def _entries(folder: Path) -> Iterator[Path]:
    with suppress(OSError, ValueError):
        yield from sorted(folder.iterdir())


def _is_near(other: Path, path: Path) -> bool:
    return path.name.casefold() in (other.name.casefold(), other.stem.casefold()) or (
        other.stem.casefold() == path.stem.casefold() and other.suffix.lower() in EXTENSIONS
    )
