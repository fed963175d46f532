"""Small networks and datasets that several tests share."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.defenses.base import PurifierFile
from iqa_armor.defenses.purifiers import PURIFIERS
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale

# Of several worker processes each has one core: more threads would only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

CPU = torch.device("cpu")
SHARED = Path(__file__).parents[2] / "shared"

# A user's file with a factory of `small_network`.
ARCH = """
from torch import nn
from iqa_armor import Preprocessing, QualityModel

def make():
    layers = []
    for channels, outputs in ((3, 16), (16, 24), (24, 32)):
        layers += [nn.Conv2d(channels, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1))
    return QualityModel(network, Preprocessing(size=(32, 40)))
"""


# Purifiers that come without a file, and settings of them.
WORDS = [
    *(name for name, purifier in PURIFIERS.items() if not isinstance(purifier, PurifierFile)),
    "rotate:random=yes,degrees=30",
    "resize:factor=2,mode=bicubic",
    "resize:factor=0.3,mode=nearest",
    "jpeg:quality=20",
    "quantize:levels=2",
]


def pytest_collection_finish() -> None:
    """Keep what is imported by now, a million objects, out of every later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """End a command's own way of showing messages with its test, so that `caplog` hears the next ones."""
    yield
    logger = logging.getLogger("iqa_armor")
    logger.handlers, logger.propagate = [], True


def small_network(seed: int = 0) -> nn.Sequential:
    """Return a convolutional network with three map sizes and one score."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 1),
        )


def contrast_images(count: int, *, size: tuple[int, int] = (32, 40), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return uint8 noise images (N, 3, H, W) and scores (N,) that follow their contrast."""
    generator = torch.Generator().manual_seed(seed)
    contrast = torch.linspace(0.05, 1.0, count)[torch.randperm(count, generator=generator)]
    noise = torch.rand(count, 3, *size, generator=generator) - 0.5
    pixels = (127.5 + 255 * noise * contrast.view(-1, 1, 1, 1)).round().clamp(0, 255)
    return pixels.to(torch.uint8), 100 * contrast


def memory_dataset(training: int = 160, test: int = 40, *, seed: int = 0) -> Dataset:
    """Return a scored dataset held in memory."""
    pixels, mos = contrast_images(training + test, seed=seed)
    names = tuple(f"{index:03d}.png" for index in range(len(mos)))
    whole = ImageSet(names, lambda index: pixels[index], mos)
    splits = {"training": whole.select(range(training)), "test": whole.select(range(training, training + test))}
    return Dataset("memory", splits)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def photographs(count: int = 2, size: tuple[int, int] = (24, 34)) -> Tensor:
    """Return smooth images with a little noise, away from 0 and 1."""
    coarse = torch.rand(count, 3, 4, 4, generator=seeded(1))
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return 0.2 + 0.6 * (0.9 * smooth + 0.1 * torch.rand(smooth.shape, generator=seeded(2)))


@pytest.fixture
def dataset() -> Dataset:
    return memory_dataset()


@pytest.fixture
def make_model() -> Callable[..., QualityModel]:
    def make(seed: int = 0, *, scale: ScoreScale | None = None) -> QualityModel:
        preprocessing = Preprocessing(size=(32, 40), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        return QualityModel(small_network(seed), preprocessing, scale=scale, name="small").eval()

    return make


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Return a folder with labels.csv and 40 PNG images that it scores."""
    return write_images(tmp_path / "images", count=40)


def write_images(folder: Path, *, count: int) -> Path:
    """Write images and labels.csv with a split column; return the folder."""
    folder.mkdir(parents=True)
    pixels, mos = contrast_images(count)
    lines = ["image,mos,split"]
    for index in range(count):
        name = f"{index:03d}.png"
        Image.fromarray(pixels[index].permute(1, 2, 0).numpy()).save(folder / name)
        lines.append(f"{name},{float(mos[index]):.4f},{'training' if index % 4 else 'test'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"real images and checkpoints are not at {SHARED}")
    return SHARED
