from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from iqa_armor.data.base import ImageSet
from iqa_armor.data.images import FileImages
from iqa_armor.data.prepared import batches, load_prepared, to_float, worker_count
from iqa_armor.data.specs import open_dataset
from iqa_armor.errors import DataError


def halved(image: Tensor) -> Tensor:
    return functional.avg_pool2d(to_float(image).unsqueeze(0), 2).squeeze(0)


def write(folder: Path, sizes: list[tuple[int, int]], *, suffix: str = ".png") -> ImageSet:
    paths = []
    for index, size in enumerate(sizes):
        paths.append(folder / f"{index:03d}{suffix}")
        Image.new("RGB", size, (index, 2 * index, 250)).save(paths[-1])
    mos = torch.arange(len(sizes), dtype=torch.float32)
    return ImageSet(tuple(path.name for path in paths), FileImages(tuple(paths)), mos)


def test_items_are_prepared_images_scores_and_positions(tmp_path: Path) -> None:
    prepared = load_prepared(write(tmp_path, [(8, 6)] * 5), halved)
    image, mos, index = prepared[3]
    assert image.shape == (3, 3, 4)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image[:, 0, 0], torch.tensor([3, 6, 250]) / 255)
    assert (mos.item(), mos.dtype, mos.ndim, index) == (3.0, torch.float32, 0, 3)
    assert prepared[-1][2] == 4
    with pytest.raises(IndexError):
        prepared[5]


def test_missing_scores_are_nan(tmp_path: Path) -> None:
    images = write(tmp_path, [(8, 6)] * 2)
    prepared = load_prepared(ImageSet(images.names, images.read), halved)
    assert math.isnan(prepared[0][1])


def test_memory_limit_decides_where_images_stay_and_not_what_they_are(tmp_path: Path) -> None:
    images = write(tmp_path, [(8, 6)] * 70)
    inside, outside = load_prepared(images, halved), load_prepared(images, halved, memory_limit=1000)
    assert inside.stored is not None
    assert outside.stored is None
    assert worker_count(inside) == 0
    assert worker_count(outside) > 0
    assert all(torch.equal(inside[i][0], outside[i][0]) for i in range(70))


def test_images_in_memory_are_decoded_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(image: Tensor) -> Tensor:
        calls.append(1)
        return halved(image)

    prepared = load_prepared(write(tmp_path, [(8, 6)] * 4), counted)
    assert [prepared[i][2] for i in (0, 0, 1)] == [0, 0, 1]
    assert len(calls) == 4


@pytest.mark.parametrize("limit", [2**30, 0])
def test_unreadable_images_are_listed_together(tmp_path: Path, limit: int) -> None:
    images = write(tmp_path, [(64, 64)] * 140, suffix=".jpg")
    for index in (3, 70, 139):
        file = tmp_path / f"{index:03d}.jpg"
        file.write_bytes(file.read_bytes()[:-30])
    (tmp_path / "005.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"unreadable images \(4\)") as caught:
        load_prepared(images, to_float, memory_limit=limit)
    assert all(name in str(caught.value) for name in ("003.jpg", "005.jpg", "070.jpg", "139.jpg"))


def test_progress_ends_with_all_images(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    images = write(tmp_path, [(8, 6)] * 70)
    load_prepared(images, halved, progress=lambda _, done, total, __="": seen.append((done, total)))
    assert seen == [(done, 70) for done in range(1, 71)]


def test_batches_keep_order_and_never_mix_sizes(tmp_path: Path) -> None:
    sizes = [(8, 6)] * 3 + [(6, 8)] + [(8, 6)] * 2
    prepared = load_prepared(write(tmp_path, sizes), to_float)
    found = list(batches(prepared, 2))
    assert [indices.tolist() for _, _, indices in found] == [[0, 1], [2], [3], [4, 5]]
    assert [images.shape[-2:] for images, _, _ in found] == [(6, 8), (6, 8), (8, 6), (6, 8)]
    assert torch.cat([mos for _, mos, _ in found]).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="batch_size"):
        next(batches(prepared, 0))


def test_subsets_read_their_own_images(tmp_path: Path) -> None:
    images = write(tmp_path, [(8, 6)] * 6).select([4, 2]).select([1])
    image, mos, _ = load_prepared(images, to_float)[0]
    assert images.names == ("002.png",)
    assert mos == 2
    assert round(float(image[0, 0, 0]) * 255) == 2


def test_data_loader_workers_read_on_demand(tmp_path: Path) -> None:
    prepared = load_prepared(write(tmp_path, [(8, 6)] * 8), halved, memory_limit=0)
    loader = DataLoader(prepared, 4, shuffle=True, num_workers=2, generator=torch.Generator().manual_seed(0))
    for images, mos, indices in loader:
        torch.testing.assert_close(mos, indices.float())
        torch.testing.assert_close(images[:, 0, 0, 0] * 255, indices.float())


def test_synthetic_images_are_not_written_through(tmp_path: Path) -> None:
    images = open_dataset("synthetic:scenes=3,size=64x64").splits["test"]
    images[0].zero_()
    assert images[0].any()
