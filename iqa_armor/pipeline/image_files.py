"""The image files that a user names: found, and refused before work starts."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from glob import has_magic, iglob
from pathlib import Path
from typing import Any

from iqa_armor.data.base import ImageSet
from iqa_armor.data.images import EXTENSIONS
from iqa_armor.data.labelled import Problems
from iqa_armor.data.prepared import checked_size, each_read
from iqa_armor.errors import DataError, UsageError, reading
from iqa_armor.progress import silent

MOST_PATH = 2**15  # characters of a line of a list


def each_image(paths: Iterable[Path | str]) -> Iterator[Path]:
    """Yield the image files that paths, folders (with all below) and patterns (`**` too) name, in order, one by one.

    What is no folder, and no pattern that fits a file, is given as it is, whether or not such a file exists.
    """
    for path in map(Path, paths):
        if path.is_dir():
            yield from _below(path)
        else:
            is_pattern = has_magic(str(path)) and not path.exists()
            fitting = sorted(iglob(str(path), recursive=True)) if is_pattern else []  # noqa: PTH207
            yield from [file for file in map(Path, fitting) if _is_image(file)] or [path]


def listed_images(paths: Iterable[Path | str], listed: str | None) -> Iterator[Path]:
    """Yield the image files that paths name, then those of a list, a path a line; "-" is the standard input."""
    yield from each_image(paths)
    if listed is not None:
        with ExitStack() as held:
            file: Any = sys.stdin
            if listed == "-":
                if file is None:
                    raise UsageError("the standard input is closed; name a LIST")
                file.reconfigure(errors="surrogateescape")
            else:
                with reading(listed, UsageError):
                    file = held.enter_context(Path(listed).open(encoding="utf-8", errors="surrogateescape"))
            for line in iter(lambda: file.readline(MOST_PATH), ""):
                if len(line) == MOST_PATH:
                    raise UsageError(f"{listed} is no list of images: a line has {MOST_PATH} characters or more")
                yield from each_image([line.rstrip("\r\n")] if line.strip() else ())


def count_images(paths: Iterable[Path | str], listed: str | None) -> int:
    """Return how many files `listed_images` yields; 0 if that is not known, since a list comes through a pipe."""
    is_known = listed is None or (listed != "-" and not Path(listed).is_fifo())
    return sum(1 for _ in listed_images(paths, listed)) if is_known else 0


def _below(folder: Path | str) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # who reads it says why it cannot be read
        yield Path(folder)
        return
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path)
        elif _is_image(Path(entry.path)):
            yield Path(entry.path)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in EXTENSIONS and not file.is_dir()


def find_images(paths: Sequence[Path | str]) -> list[Path]:
    """Return the image files that paths, folders and patterns name, in the given order.

    Files that are missing, which are all listed, or no file at all are a DataError.
    """
    files = list(each_image(paths))
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(f"no such image: {', '.join(missing)}")
    if not files:
        raise DataError(f"no images in {', '.join(map(str, paths))}")
    return files


def require_readable(images: ImageSet) -> None:
    """Raise a DataError that lists all files that cannot be read, if there are any."""
    problems, places = Problems("these images"), [(images, index) for index in range(len(images))]
    for _ in each_read(checked_size, places, problems, progress=silent, task=""):
        pass
    problems.raise_if_any("mend them or leave them out")
