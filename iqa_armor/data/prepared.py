"""From image sets to prepared batches: decoded once where memory allows, on demand otherwise."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from iqa_armor.data.base import ImageSet
from iqa_armor.data.images import FileImages
from iqa_armor.data.problems import Problems
from iqa_armor.errors import DataError
from iqa_armor.machine import usable_processors
from iqa_armor.progress import Progress, silent

Prepare = Callable[[Tensor], Tensor]
MEMORY_LIMIT = 2 * 2**30
_CHUNK = 64
_MOST_WORKERS = 8


def to_float(image: Tensor) -> Tensor:
    """Return a uint8 image (3, H, W) as float32 in [0, 1] at its own size: `prepare` where sizes are kept."""
    return image.float() / 255


class PreparedImages(TorchDataset[tuple[Tensor, Tensor, int]]):
    """Images as a network sees them; item i is (image (3, H, W) in [0, 1], score, i), all float32.

    The score is a scalar tensor, NaN where the set has no scores. Images are `stored`, or prepared on demand.
    """

    def __init__(self, images: ImageSet, prepare: Prepare, stored: Sequence[Tensor] | None = None) -> None:
        self.images, self.prepare, self.stored = images, prepare, stored
        self.mos = torch.full((len(images),), math.nan) if images.mos is None else images.mos.float()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        image = self.stored[index] if self.stored is not None else _prepared(self, index)
        return image, self.mos[index], index

    def select(self, indices: Sequence[int]) -> PreparedImages:
        """Return the images at `indices`, in that order; nothing is decoded again."""
        stored = None if self.stored is None else [self.stored[i] for i in indices]
        return PreparedImages(self.images.select(indices), self.prepare, stored)


def load_prepared(
    images: ImageSet,
    prepare: Prepare,
    *,
    memory_limit: int = MEMORY_LIMIT,
    progress: Progress = silent,
    task: str = "reading images",
) -> PreparedImages:
    """Decode every image once: to keep it where all fit into memory, else only to know that it can be read.

    `prepare` turns a uint8 image (3, H, W) into a float image (3, H', W') in [0, 1]; the limit is in bytes of those. A
    DataError lists every image that cannot be read.
    """
    plain = PreparedImages(images, prepare)
    problems = Problems("the image set")
    stored: list[Tensor] | None = []
    total = len(images)
    with ThreadPoolExecutor(min(_MOST_WORKERS, usable_processors())) as pool:
        for start in range(0, total, _CHUNK):
            chunk = range(start, min(start + _CHUNK, total))
            keep = stored is not None
            results = list(pool.map(lambda i, keep=keep: _attempt(plain, i, keep=keep), chunk))
            problems.extend("unreadable images", (item for item in results if isinstance(item, str)))
            stored = _extended(stored, results, total=total, limit=memory_limit)
            progress(task, chunk.stop, total)
    problems.raise_if_any("replace or remove these files, then run again")
    return PreparedImages(images, prepare, stored)


def _attempt(plain: PreparedImages, index: int, *, keep: bool) -> Tensor | str | None:
    """Return the prepared image, None if it was only checked, or the reason why it cannot be read."""
    images = plain.images
    try:
        if keep:
            return _prepared(plain, index)
        if isinstance(images.read, FileImages):
            images.read.check(images.positions[index])
        else:
            images[index]
    except DataError as error:
        return f"{images.names[index]} ({error})"
    return None


def _prepared(plain: PreparedImages, index: int) -> Tensor:
    with torch.no_grad():
        return plain.prepare(plain.images[index]).contiguous()


def _extended(
    stored: list[Tensor] | None, results: Sequence[Tensor | str | None], *, total: int, limit: int
) -> list[Tensor] | None:
    """Return the kept images with a chunk added, or None as soon as all would not fit."""
    if stored is None:
        return None
    stored.extend(item for item in results if isinstance(item, Tensor))
    size = sum(item.numel() * item.element_size() for item in stored)
    return stored if size / max(len(stored), 1) * total <= limit else None


def batches(prepared: PreparedImages, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (images (N, 3, H, W), scores (N,), indices (N,)) in order, N ≤ `batch_size`; less where sizes change."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    items = (prepared[index] for index in range(len(prepared)))
    for _, alike in groupby(items, key=lambda item: item[0].shape):
        while group := list(islice(alike, batch_size)):
            images, scores, indices = zip(*group, strict=True)
            yield torch.stack(images), torch.stack(scores), torch.tensor(indices)


def worker_count(prepared: PreparedImages) -> int:
    """Return how many worker processes a DataLoader should have: none where nothing is decoded.

    Workers that are not forked must import what they call, and do not find a user's module or lambda.
    """
    code = (prepared.images.read, prepared.prepare)
    is_ours = all(part.__module__.partition(".")[0] == __name__.partition(".")[0] for part in code)
    if prepared.stored is not None or not (is_ours or multiprocessing.get_start_method() == "fork"):
        return 0
    return min(_MOST_WORKERS, usable_processors())
