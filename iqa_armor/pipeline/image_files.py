"""Image files: those that a user names, found and refused before work starts, and those of attacked images."""

import csv
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from glob import has_magic, iglob
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iqa_armor.data.base import ImageSet
from iqa_armor.data.images import EXTENSIONS, FileImages
from iqa_armor.data.labelled import Problems
from iqa_armor.errors import DataError, UsageError, reading
from iqa_armor.settings import LEVELS

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
    problems = Problems("these images")
    for position, name in zip(images.positions, images.names, strict=True):
        try:
            if isinstance(images.read, FileImages):
                images.read.check(position)
        except DataError as error:
            problems.add("unreadable images", f"{name} ({error})")
    problems.raise_if_any("mend them or leave them out")


TABLE = "attacks.csv"
_SLACK = 3e-5  # of a level: float32 pixels are off by half of it, which should not cost a level


@dataclass(frozen=True)
class AttackedImage:
    """One attacked image in its file, compared with the exact prepared clean image."""

    image: Path  # of the clean image
    file: str  # of the attacked image, in the output folder
    attack: str
    epsilon: float | None  # L-infinity budget in 1/255; None where the attack's budget is another
    clean_score: float  # of the prepared clean image, before any rounding: what scoring `image` gives
    attacked_score: float  # of the 8-bit file, read again: what scoring `file` gives
    gain: float  # attacked minus clean score, in model units
    linf: float  # largest change of a pixel value, in 1/255
    l2: float  # Euclidean length of the change, pixels being in [0, 1]
    psnr: float  # decibels, at most 150
    ssim: float  # structural similarity; NaN for images below 11×11 pixels

    def as_row(self) -> dict[str, Any]:
        return asdict(self) | {"image": str(self.image)}


COLUMNS = tuple(field.name for field in fields(AttackedImage))


def to_levels(attacked: Tensor, clean: Tensor, epsilon: float) -> Tensor:
    """Return attacked images as uint8, rounded to the nearest level inside the L-infinity ball.

    A clean pixel between two levels has up to one level fewer inside its ball than one on a level. Where its ball
    holds none, which takes an epsilon below half a level, it gets the level nearest to the clean value.

    Both are (N, 3, H, W) in [0, 1]; `clean` is the middle of the ball, and not on 8-bit levels in general. `epsilon` is
    its radius, infinite for no ball.
    """
    middle = clean.double() * LEVELS
    lowest = (middle - epsilon * LEVELS - _SLACK).ceil()
    highest = (middle + epsilon * LEVELS + _SLACK).floor()
    nearest = (attacked.double() * LEVELS).round().clamp(lowest, highest)
    levels = torch.where(lowest <= highest, nearest, middle.round())
    return levels.clamp(0, LEVELS).to(torch.uint8)


def name_files(files: Sequence[Path], words: Sequence[str]) -> dict[tuple[Path, str], str]:
    """Return a file name for every image and attack; images of one stem are numbered."""
    names: dict[tuple[Path, str], str] = {}
    taken: set[str] = set()
    for file in files:
        for word in words:
            label = file.stem + "-" + re.sub(r"[^\w.]+", "-", word)
            name, number = f"{label}.png", 1
            while name.casefold() in taken:  # some file systems fold letter case
                number += 1
                name = f"{label}-{number}.png"
            taken.add(name.casefold())
            names[file, word] = name
    return names


def check_output(output: Path, files: Sequence[Path], names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse an output folder that cannot be one, holds what is to be attacked, or files that are in the way."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder")
    inside = [str(file) for file in files if file.resolve().is_relative_to(output.resolve())]
    if inside:
        raise UsageError(f"{inside[0]} lies in the output folder; name another with -o")
    existing = [name for name in names if (output / name).exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UsageError(
            f"{output / existing[0]}{more} exists already; replace it with --overwrite, or name another place with -o"
        )


def write_table(path: Path, rows: Sequence[AttackedImage]) -> None:
    """Write the table as CSV; a value that does not exist is an empty cell."""
    # File names need not be text; their bytes are kept.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: None if value != value else value for name, value in row.as_row().items()})
