"""What a dataset is: named images, perhaps with opinion scores, in fixed splits."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from iqa_armor.errors import DataError

Split = Literal["training", "validation", "test"]
SPLITS: tuple[Split, ...] = ("training", "validation", "test")
GOLDEN = (5**0.5 - 1) / 2  # of a length, the longer part of its golden section
ReadImage = Callable[[int], Tensor]  # returns image `index` as uint8 (3, H, W); may be called from worker processes


@dataclass(frozen=True, repr=False)
class ImageSet:
    """The images of one split."""

    names: tuple[str, ...]  # unique names, in a fixed order
    read: ReadImage  # returns image i as uint8 (3, H, W); `positions` maps i of this set to what it takes
    mos: Tensor | None = None  # opinion scores (N,), higher is better, or None where there are none
    positions: tuple[int, ...] = field(default=())  # indices given to `read`; all of them in order by default
    # Returns the pristine original of what `read` returns, where the dataset has originals.
    references: ReadImage | None = None

    def __post_init__(self) -> None:
        if not self.positions:
            object.__setattr__(self, "positions", tuple(range(len(self.names))))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        return self.read(self.positions[index])

    def select(self, indices: Sequence[int]) -> Self:
        mos = None if self.mos is None else self.mos[torch.as_tensor(list(indices), dtype=torch.long)]
        names, positions = tuple(self.names[i] for i in indices), tuple(self.positions[i] for i in indices)
        return replace(self, names=names, mos=mos, positions=positions)

    def limit(self, count: int | None) -> Self:
        return self if count is None or count >= len(self) else self.select(evenly(len(self), count))


@dataclass(frozen=True, repr=False)
class Dataset:
    """Image sets by split.

    Args:
        spec: The text the user named it by, e.g. `csv:labels.csv`.
        splits: Sets that exist, disjoint; unlabelled data has only "test".
        keeps_size: Whether images go to the network at their own size (NIPS 2017), not through `prepare`.
        is_synthetic: Whether images and scores are generated; verdicts must then say so.
        fingerprint: Digest (sha256, 16 hexadecimal digits) of names, scores and splits.
        labels: What its scores are, and how they were turned where the publication's fall with quality.
        files: Its label files.
        remarks: What the user should know of how they were read.
    """

    spec: str
    splits: Mapping[Split, ImageSet]
    keeps_size: bool = False
    is_synthetic: bool = False
    fingerprint: str = ""
    labels: str = "opinion scores as in the label file"
    files: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _fingerprint(self.splits))

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(images)} {split}" for split, images in self.splits.items())
        return f"Dataset {self.spec!r}: {counts} images{' (synthetic)' * self.is_synthetic}"

    @property
    def is_labelled(self) -> bool:
        return all(images.mos is not None for images in self.splits.values())

    def training(self) -> ImageSet:
        images = self.splits.get("training")
        if images is None or images.mos is None or not len(images):
            raise DataError(f"{self.spec} has no scored training images; name a dataset that has, e.g. --data csv:FILE")
        return images

    def reported(self) -> tuple[Split, ImageSet]:
        for split in ("test", "validation"):
            if len(self.splits.get(split, ())):
                return split, self.splits[split]
        raise DataError(f"{self.spec} has neither test nor validation images to report on")


def _fingerprint(splits: Mapping[Split, ImageSet]) -> str:
    digest = hashlib.sha256()
    for split, images in ((split, splits[split]) for split in SPLITS if split in splits):
        scores = [""] * len(images) if images.mos is None else map(repr, images.mos.tolist())
        for name, score in zip(images.names, scores, strict=True):
            digest.update(f"{split}\t{name}\t{score}\n".encode())
    return digest.hexdigest()[:16]


def evenly(total: int, count: int) -> list[int]:
    """Return `count` of `total` positions, one of each of as many equal parts, in order; all where there are no more.

    The place in a part moves on by the golden ratio: at equal distances a list that repeats itself, such as each scene
    under the same distortions, would be met at a few of them only.
    """
    count = min(total, count)
    bounds = [i * total // count for i in range(count + 1)] if count else []
    return [low + int(GOLDEN * i % 1 * (high - low)) for i, (low, high) in enumerate(pairwise(bounds))]


def held_out(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Split training images into (fitting, held-out tenth, which chooses the epoch) by a hash of each name."""
    ranks = [int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) for name in images.names]
    out = [i for i, rank in enumerate(ranks) if rank % 10 == 0]
    least = min(2, len(ranks) // 2)  # a correlation needs two images; tiny sets may have none
    if len(out) < least:
        out = sorted(range(len(ranks)), key=ranks.__getitem__)[:least]
    return images.select(sorted({*range(len(ranks))}.difference(out))), images.select(out)


def hashed_splits(names: Sequence[str]) -> list[Split]:
    """Return a split for each name: exactly 70/10/20 %, by the order of a hash; from three on none is empty."""
    count = len(names)
    test, validation = (max(round(share * count), int(count >= 3)) for share in (0.2, 0.1))
    sizes = (count - test - validation, validation, test)
    ranked = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
    order = sorted(range(count), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    split_of = dict(zip(order, ranked, strict=True))
    return [split_of[index] for index in range(count)]


def grouped_splits(groups: Sequence[str]) -> list[Split]:
    """Return a split for each image so that no group, e.g. of one reference, is in two: as of hashed group names."""
    distinct = list(dict.fromkeys(groups))
    split_of = dict(zip(distinct, hashed_splits(distinct), strict=True))
    return [split_of[group] for group in groups]
