"""Hardened architectures reload in a fresh process in which their source does not exist."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import memory_dataset
from torch import Tensor

from iqa_armor import load_model
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.models.build import build
from iqa_armor.pipeline.harden import harden
from iqa_armor.recipe import Recipe

# Modules that make architectures; the process below cannot import them.
SOURCES = ("demo", "inception_resnet", "published", "tres")
CHECK = """
import sys

hidden = sys.argv[3].split(",")

class Without:
    def find_spec(self, name, path=None, target=None):
        if name in hidden:
            raise ImportError(f"{name} does not exist here")

sys.meta_path.insert(0, Without())
import torch
from iqa_armor.artifact.storage import load_artifact

model = load_artifact(__import__("pathlib").Path(sys.argv[1]))
images, scores = torch.load(sys.argv[2], weights_only=True)
assert not any(name in sys.modules for name in hidden), "a source was imported"
with torch.inference_mode():
    error = float((model(images) - scores).abs().max() / scores.abs().max())
assert error <= 1e-5, error
"""
OWN = """
import torch
from torch import nn


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.head = nn.Linear(32, 1)

    def forward(self, images):
        maps = torch.relu(self.first(images))
        maps = torch.relu(self.second(maps + maps * 0.5))
        return self.head(maps.mean((2, 3)))


def make():
    return Doubled()
"""


def check_elsewhere(path: Path, model: QualityModel, hidden: list[str], folder: Path) -> None:
    """Check in a fresh process, started in another folder, that a file gives a model's scores."""
    images: Tensor = torch.rand(2, 3, *(model.preprocessing.size or (96, 128)))
    with torch.inference_mode():
        torch.save([images, model(images)], folder / "expected.pt")
    away = folder / "elsewhere"
    away.mkdir()
    command = [sys.executable, "-c", CHECK, str(path), str(folder / "expected.pt"), ",".join(hidden)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=away)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend", "size"),
    [
        ("linearity-resnet18", "cayley", (96, 128)),
        ("linearity", "aoc", (96, 128)),
        ("koncept512", "cayley", (139, 180)),
        ("dbcnn", "aol", (96, 128)),
        ("tres", "cayley", (96, 128)),
        ("metaiqa", "aoc", (96, 96)),
        ("spaq", "aol", (96, 128)),
    ],
)
def test_published_architecture_reloads_without_its_source(
    name: str, backend: str, size: tuple[int, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = build(name)
    assert isinstance(made, QualityModel)
    made.set_preprocessing(replace(made.preprocessing, size=size))
    model = made.eval()
    result = harden(model, memory_dataset(training=8), Recipe(backend=backend, epochs=0, calibration=4))
    result.save(tmp_path / "hardened.safetensors")
    hidden = [f"iqa_armor.models.{source}" for source in SOURCES] + ["iqa_armor.models.build"]
    check_elsewhere(tmp_path / "hardened.safetensors", result.model, hidden, tmp_path)


def test_user_architecture_reloads_after_its_file_is_deleted(tmp_path: Path) -> None:
    source = tmp_path / "own.py"
    source.write_text(OWN)
    scope: dict = {}
    exec(OWN, scope)
    torch.manual_seed(0)
    torch.save(scope["make"]().state_dict(), tmp_path / "weights.pt")
    model = load_model(tmp_path / "weights.pt", arch=f"{source}:make")
    model.set_preprocessing(Preprocessing(size=(32, 40)))
    result = harden(model, memory_dataset(training=8), Recipe(epochs=0))
    result.save(tmp_path / "hardened.safetensors")
    source.unlink()
    check_elsewhere(tmp_path / "hardened.safetensors", result.model, ["own", "iqa_armor_user_own"], tmp_path)
