"""Score image files: decoded by threads, scored in batches, one result after the other."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import torch
from torch import Tensor

from iqa_armor.data.images import keeping_room, read_image
from iqa_armor.data.prepared import MOST_WORKERS, ahead
from iqa_armor.defenses.base import Defended
from iqa_armor.errors import ArmorError, DataError, ModelLoadError
from iqa_armor.machine import choose_device, usable_processors
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.image_files import find_images
from iqa_armor.progress import Progress, automatic

# On a CUDA device; a processor has nothing from batches, and one by one no score depends on another, to the last bit.
BATCH = 8
# Pixels of a batch per image that it may hold: what is larger goes into smaller batches.
_PIXELS = 2**19


@dataclass(frozen=True)
class Scored:
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
    most = batch_size or (BATCH if device.type == "cuda" else 1)
    if isinstance(model, Defended) and model.is_random:
        most = 1
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
    """Return what a model in eval mode gives for prepared images (3, H, W) of one size: scores, or what is wrong.

    Where it fails on several, or memory does, they are scored in halves, so that one image does not lose the others.
    """
    if isinstance(model, Defended):
        model.reseed(seed)
    try:
        with torch.inference_mode():
            scores = model(torch.stack(list(images)).to(model.mean.device)).tolist()
    except (ModelLoadError, torch.OutOfMemoryError) as error:
        if len(images) > 1:
            halves = images[: len(images) // 2], images[len(images) // 2 :]
            return [found for half in halves for found in score_prepared(model, half, seed=seed)]
        told = DataError("the device has not enough memory for it")
        return [error if isinstance(error, ArmorError) else told]
    fault = ModelLoadError(f"{model.name} gives a score that is not finite")
    return [score if math.isfinite(score) else fault for score in scores]
