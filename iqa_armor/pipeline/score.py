"""Find the image files that a user names, and score them: decoded by threads, in batches, one after the other."""

import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from glob import has_magic, iglob
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iqa_armor.data.base import ImageSet
from iqa_armor.data.images import EXTENSIONS, FileImages, keeping_room, read_image
from iqa_armor.data.labelled import Problems
from iqa_armor.data.prepared import MOST_WORKERS, ahead, checked_size, each_read
from iqa_armor.defenses.base import Defended
from iqa_armor.errors import ArmorError, DataError, ModelLoadError, UsageError, reading
from iqa_armor.machine import choose_device, usable_processors
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, automatic, silent

MOST_PATH = 2**15  # characters of a line of a list
# On a CUDA device; a processor has nothing from batches, and one by one no score depends on another, to the last bit.
BATCH = 8
_PIXELS = 2**19  # of a batch per image that it may hold: what is larger goes into smaller batches


def each_image(paths: Iterable[Path | str]) -> Iterator[Path]:
    """Yield the image files that paths, folders (with all below) and patterns (`**` too) name, in order, one by one."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from _below(path)
        else:
            # What is no folder, and no pattern that fits a file, is given as it is, be it there or not.
            is_pattern = has_magic(str(path)) and not path.exists()
            fitting = sorted(iglob(str(path), recursive=True)) if is_pattern else []  # noqa: PTH207
            yield from [file for file in map(Path, fitting) if _is_image(file)] or [path]


def listed_images(paths: Iterable[Path | str], listed: str | None) -> Iterator[Path]:
    """Yield the image files that paths name, then those of a list, a path a line; "-" is the standard input."""
    yield from each_image(paths)
    if listed is None:
        return
    if listed == "-" and sys.stdin is None:
        raise UsageError("the standard input is closed; name a LIST")
    with reading(listed, UsageError):
        file: Any = sys.stdin if listed == "-" else Path(listed).open(encoding="utf-8")  # noqa: SIM115
        file.reconfigure(errors="surrogateescape")
    with nullcontext() if listed == "-" else file:
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
    """Return the image files that paths, folders and patterns name; a DataError if one is missing, or none is named."""
    files = list(each_image(paths))
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(f"no such image: {', '.join(missing)}")
    if not files:
        raise DataError(f"no images in {', '.join(map(str, paths))}")
    return files


def image_set(paths: Sequence[Path | str]) -> ImageSet:
    files = tuple(dict.fromkeys(find_images(paths)))
    return ImageSet(tuple(map(str, files)), FileImages(files))


def require_readable(images: ImageSet) -> None:
    """Raise a DataError that lists all files that cannot be read, if there are any."""
    problems, places = Problems("these images"), [(images, index) for index in range(len(images))]
    for _ in each_read(checked_size, places, problems, progress=silent, task=""):
        pass
    problems.raise_if_any("mend them or leave them out")


class Scored(NamedTuple):
    """An image file with its score in model units, or with the error that stands for it."""

    path: Path
    score: float = math.nan
    error: ArmorError | None = None


def score_files(
    model: QualityModel,
    paths: Sequence[Path | str],
    *,
    device: torch.device | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress = automatic,
) -> list[tuple[Path, float]]:
    """Return (path, score) of image files, folders of them and patterns, in order; the model moves to the device.

    Files that are missing or no images are a DataError; `each_score` goes on after them.
    """
    files, found = find_images(paths), []
    for done in each_score(model, files, device=device, seed=seed, batch_size=batch_size):
        if done.error is not None:
            raise done.error
        found.append((done.path, done.score))
        progress("scoring", len(found), len(files))
    return found


def each_score(
    model: QualityModel,
    files: Iterable[Path | str],
    *,
    device: torch.device | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Iterator[Scored]:
    """Yield what scoring gives for image files, in their order; memory does not grow with their number.

    The model moves to the device and stays in eval mode. Files are taken, and decoded by `workers` threads, only a
    batch ahead, of 8 images on a CUDA device and of one elsewhere by default. An image that cannot be read or scored
    yields its error. What a random defense draws is the same for every image, which then are scored one by one.
    """
    device = device or choose_device()
    is_random = isinstance(model, Defended) and model.is_random
    most = 1 if is_random else batch_size or (BATCH if device.type == "cuda" else 1)
    model.eval().to(device)

    def decode(path: Path) -> tuple[Path, Tensor | ArmorError]:
        try:
            with keeping_room(), torch.inference_mode():
                return path, model.prepare(read_image(path))
        except ArmorError as error:
            return path, error

    workers = workers or min(MOST_WORKERS, usable_processors())
    decoded = ahead(decode, map(Path, files), workers=workers, waiting=most)
    for shape, alike in groupby(decoded, key=lambda item: getattr(item[1], "shape", None)):
        if shape is None:
            yield from (Scored(path, error=error) for path, error in alike if isinstance(error, ArmorError))
            continue
        count = min(most, max(1, most * _PIXELS // shape[1:].numel()))
        while batch := list(islice(alike, count)):
            found = score_prepared(model, [pixels for _, pixels in batch if isinstance(pixels, Tensor)], seed=seed)
            for (path, _), score in zip(batch, found, strict=True):
                yield Scored(path, score) if isinstance(score, float) else Scored(path, error=score)


def score_prepared(model: QualityModel, images: Sequence[Tensor], *, seed: int = 0) -> list[float | ArmorError]:
    """Return what a model in eval mode gives for prepared images (3, H, W) of one size: scores, or what is wrong."""
    if isinstance(model, Defended):
        model.reseed(seed)
    try:
        with torch.inference_mode():
            scores = model(torch.stack(list(images)).to(model.mean.device)).tolist()
    except (ModelLoadError, torch.OutOfMemoryError) as error:
        if len(images) > 1:  # so that one image does not lose the others
            halves = images[: len(images) // 2], images[len(images) // 2 :]
            return [found for half in halves for found in score_prepared(model, half, seed=seed)]
        return [error if isinstance(error, ArmorError) else DataError("the device has not enough memory for it")]
    fault = ModelLoadError(f"{model.name} gives a score that is not finite")
    return [score if math.isfinite(score) else fault for score in scores]
