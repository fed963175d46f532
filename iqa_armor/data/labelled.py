"""A dataset of image files with opinion scores: what every label file comes down to, and where its images lie."""

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath

import torch

from iqa_armor.data.base import SPLITS, Dataset, ImageSet, Split, grouped_splits
from iqa_armor.data.images import EXTENSIONS, FileImages
from iqa_armor.errors import DataError, expanded, is_file

SHOWN = 10
MEND = "mend or remove these rows or files, then run again"


@dataclass
class Problems:
    """Faults of one dataset, the one named by `spec`, by kind, in the order they were met."""

    spec: str
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, *entries: str) -> None:
        """Note faults, e.g. `add("missing images", "a.jpg")`."""
        if entries:
            self.found.setdefault(kind, []).extend(entries)

    def raise_if_any(self, advice: str = MEND) -> None:
        """Raise one DataError that lists every kind of fault, the first ten of each, if one was noted."""
        lines = []
        for kind, entries in self.found.items():
            more = [f"    … and {len(entries) - SHOWN} more"] * (len(entries) > SHOWN)
            lines += [f"  {kind} ({len(entries)}):", *(f"    {entry}" for entry in entries[:SHOWN]), *more]
        if lines:
            raise DataError("\n".join([f"{self.spec} cannot be used:", *lines, advice]))


@dataclass(frozen=True)
class LabelledImage:
    """One image that a label file names."""

    name: str  # unique, shown to the user
    path: Path
    mos: float  # higher is better
    split: Split | None = None  # None where the dataset has no official one
    scene: str = ""  # what it shows, e.g. the name of its original, never in two splits; its own name by default
    reference: Path | None = None  # where the file of its pristine original lies, if it is there


def find_labels(location: str, candidates: Sequence[str], *, how_to_get: str) -> list[Path]:
    """Return the label files of a release, by the preferred pattern first: in the named folder or one below it."""
    folder = expanded(location)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. {how_to_get}")
    places = (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
    for name in candidates:
        for place in places:
            if found := sorted(filter(is_file, place.glob(name))):
                return found
    raise DataError(f"{folder} holds no {' or '.join(candidates)}. {how_to_get}")


def plain_name(name: str, problems: Problems) -> str:
    """Return the name of an image, noting one that is no plain file name."""
    if not name or Path(name).name != name or "\\" in name:
        problems.add("image names that are empty or paths", repr(name))
    return name


def labelled_dataset(
    images: Sequence[LabelledImage],
    problems: Problems,
    *,
    folder: Path | None = None,  # where messages say that the images lie
    labels: str = Dataset.labels,
    advice: str = MEND,  # ends the DataError that lists all problems
    files: Sequence[Path] = (),
    hint: Callable[[Path], str] = lambda path: "",  # noqa: ARG005  # what is said of a missing image
) -> Dataset:
    """Return the dataset of a label file: in its official splits, or divided 70/10/20 by a hash of the scenes."""
    missing = [image for image in images if not is_file(image.path)]
    kind = f"missing images in {folder}" if folder else "missing images"
    for place, image in enumerate(missing):
        # A hint may need a look into the folder, so it is asked for only for what the message will show.
        problems.add(kind, image.name + (hint(image.path) if place < SHOWN else ""))
    if not all(image.split for image in images):
        splits = grouped_splits([image.scene or image.name for image in images])
        images = [replace(image, split=split) for image, split in zip(images, splits, strict=True)]
    _check_duplicates(images, problems)
    by_split = {split: [image for image in images if image.split == split] for split in SPLITS}
    for split, chosen in by_split.items():  # of scores that are all equal nothing can be learned or ranked
        if len(chosen) > 1 and len({image.mos for image in chosen}) == 1:
            problems.add("splits with constant scores", f"{split}: {len(chosen)} images, all {chosen[0].mos:g}")
    problems.raise_if_any(advice)
    sets = {split: _image_set(chosen) for split, chosen in by_split.items() if chosen}
    return Dataset(problems.spec, sets, labels=labels, files=tuple(files))


def _check_duplicates(images: Sequence[LabelledImage], problems: Problems) -> None:
    first: dict[Path, LabelledImage] = {}
    for image in images:
        earlier = first.setdefault(image.path, image)
        if earlier.split != image.split:
            problems.add("images in two splits", f"{image.name}: {earlier.split} and {image.split}")
        elif earlier is not image:
            problems.add("duplicate images", image.name)


def _image_set(images: Sequence[LabelledImage]) -> ImageSet:
    originals = tuple(image.reference for image in images if image.reference is not None and is_file(image.reference))
    names, read = tuple(image.name for image in images), FileImages(tuple(image.path for image in images))
    mos = torch.tensor([image.mos for image in images], dtype=torch.float32)
    return ImageSet(names, read, mos, references=FileImages(originals) if len(originals) == len(images) else None)


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
        paths = [(start, _plain(start / name)) for start in self.starts]
        kept = [path for start, path in paths if start in self.roots or path.is_relative_to(_plain(start))]
        inside = [path for path in kept if self._holds(path)]
        return next(filter(None, map(self._existing, inside)), inside[0] if inside else None)

    def name_of(self, name: str, path: Path) -> str:
        """Return the name of an image, the same on every machine: as written or, if that leads out, from a root."""
        if not Path(name).is_absolute() and Path(os.path.normpath(name)).parts[:1] != ("..",):
            return name
        return min((os.path.relpath(path, root) for root in self.roots), key=lambda said: said.startswith(".."))

    def near(self, path: Path) -> str:
        """Say which neighbors differ only in case or extension, or lie in a folder beside: why files are missing."""
        folders = (path.parent, path.parent / "images")
        names = [each.name for folder in folders for each in _entries(folder) if _is_near(each, path)]
        names = names or [f"{each.name}/{path.name}" for each in _entries(path.parent) if is_file(each / path.name)]
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
                # None, or several that differ in case, are a ValueError.
                (place,) = [place / part] if is_there else self._listed(place).get(self._key(part), [])
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
