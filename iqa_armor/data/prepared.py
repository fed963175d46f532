"""From image sets to prepared batches: decoded once where memory allows, on demand otherwise."""

import hashlib
import math
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from iqa_armor.data.base import ImageSet
from iqa_armor.data.images import FileImages, keeping_room
from iqa_armor.data.labelled import Problems
from iqa_armor.errors import DataError
from iqa_armor.machine import usable_processors
from iqa_armor.progress import Progress, silent

Prepare = Callable[[Tensor], Tensor]
MEMORY_LIMIT = 2 * 2**30
_WAITING = 64  # images that are decoded before they are asked for
MOST_WORKERS = 8
S = TypeVar("S")
T = TypeVar("T")
Place = tuple[ImageSet, int]  # image i of a set


def to_float(image: Tensor) -> Tensor:
    """Return a uint8 image (3, H, W) as float32 in [0, 1] at its own size: `prepare` where sizes are kept."""
    return image.float() / 255


class PreparedImages(TorchDataset[tuple[Tensor, Tensor, int]]):
    """Images as a network sees them; item i is (image (3, H, W) in [0, 1], scalar score or NaN, i), all float32."""

    def __init__(self, images: ImageSet, prepare: Prepare, stored: Sequence[Tensor] | None = None) -> None:
        self.images, self.prepare, self.stored = images, prepare, stored
        self.mos = torch.full((len(images),), math.nan) if images.mos is None else images.mos.float()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        return self.prepared(index) if self.stored is None else self.stored[index], self.mos[index], index

    @torch.no_grad()
    def prepared(self, index: int) -> Tensor:
        return self.prepare(self.images[index]).contiguous()

    def select(self, indices: Sequence[int]) -> "PreparedImages":
        """Return the images at `indices`, in that order; nothing is decoded again."""
        stored = None if self.stored is None else [self.stored[i] for i in indices]
        return PreparedImages(self.images.select(indices), self.prepare, stored)

    def digest(self) -> str:
        """Return the sha256 of the bytes of the files, where they are files, else of the pixels."""
        images, whole = self.images, hashlib.sha256()
        for index, position in enumerate(images.positions):
            if isinstance(images.read, FileImages):
                whole.update(images.read.digest(position).encode())
            else:
                whole.update((images[index] if self.stored is None else self.stored[index]).numpy().tobytes())
        return whole.hexdigest()


def load_prepared(
    images: ImageSet,
    prepare: Prepare,  # turns a uint8 image (3, H, W) into a float image (3, H', W') in [0, 1]
    *,
    memory_limit: int = MEMORY_LIMIT,  # bytes of prepared images
    progress: Progress = silent,
    task: str = "reading images",
) -> PreparedImages:
    """Decode every image once: to keep it where all fit into memory, else only to know that it can be read."""
    plain, problems = PreparedImages(images, prepare), Problems("the image set")
    stored: list[Tensor] | None = []
    size = 0

    def read(images: ImageSet, index: int) -> Tensor | None:
        if stored is not None:
            return plain.prepared(index)
        checked_size(images, index)
        return None

    for image in each_read(read, [(images, i) for i in range(len(images))], problems, progress=progress, task=task):
        if stored is not None and image is not None:
            stored.append(image)
            size += image.nbytes
            if size / len(stored) * len(images) > memory_limit:
                stored = None
    problems.raise_if_any("replace or remove these files, then run again")
    return PreparedImages(images, prepare, stored)


def ahead(work: Callable[[S], T], items: Iterable[S], *, workers: int, waiting: int) -> Iterator[T]:
    """Yield what threads make of items, in their order; items are taken only as far as workers and `waiting` reach."""
    remaining, begun = iter(items), deque[Future[T]]()
    with ThreadPoolExecutor(workers) as pool:
        try:
            begun.extend(pool.submit(work, item) for item in islice(remaining, workers + waiting))
            while begun:
                yield begun.popleft().result()
                begun.extend(pool.submit(work, item) for item in islice(remaining, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def each_read(
    work: Callable[[ImageSet, int], T], places: Sequence[Place], problems: Problems, *, progress: Progress, task: str
) -> Iterator[T]:
    """Yield what some work, done by threads, gives for images; those that cannot be read become problems."""

    def attempt(place: Place) -> T | DataError:
        try:
            with keeping_room():
                return work(*place)
        except DataError as error:
            return DataError(f"{place[0].names[place[1]]} ({error})")

    workers = min(MOST_WORKERS, usable_processors())
    for done, result in enumerate(ahead(attempt, places, workers=workers, waiting=_WAITING), start=1):
        if isinstance(result, DataError):
            problems.add("unreadable images", str(result))
        else:
            yield result
        progress(task, done, len(places))


def checked_size(images: ImageSet, index: int) -> tuple[int, int]:
    if isinstance(images.read, FileImages):
        return images.read.check(images.positions[index])
    height, width = images[index].shape[-2:]
    return height, width


def batches(prepared: PreparedImages, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (images (N, 3, H, W), scores (N,), indices (N,)) in order, N ≤ `batch_size`; less where sizes change."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    for _, alike in groupby((prepared[index] for index in range(len(prepared))), key=lambda item: item[0].shape):
        while group := list(islice(alike, batch_size)):
            images, scores, indices = zip(*group, strict=True)
            yield torch.stack(images), torch.stack(scores), torch.tensor(indices)


def worker_count(prepared: PreparedImages) -> int:
    """Return how many worker processes a DataLoader should have: none where nothing is decoded."""
    # Workers that are not forked must import what they call, and do not find a user's module or lambda.
    code = (prepared.images.read, prepared.prepare)
    is_ours = all(part.__module__.partition(".")[0] == __name__.partition(".")[0] for part in code)
    can_decode = is_ours or multiprocessing.get_start_method() == "fork"
    return min(MOST_WORKERS, usable_processors()) if prepared.stored is None and can_decode else 0
