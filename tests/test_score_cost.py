"""Scoring an image with a small network imports nothing that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from conftest import small_network, write_images
from torch import nn

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.block import RobustBlock

NEEDLESS = (
    *("torchvision", "scipy", "accelerate", "kornia", "piq", "torch_pruning", "matplotlib", "onnx", "timm", "pyiqa"),
    *("sympy", "triton", "torch._dynamo", "torch._inductor", "torch.onnx", "torch.fx.experimental.symbolic_shapes"),
    *("orthogonium", "jinja2", "pandas", "iqa_armor.training", "iqa_armor.evaluation", "iqa_armor.attacks"),
    *("iqa_armor.pruning", "iqa_armor.surgery", "iqa_armor.report", "iqa_armor.export"),
)
SCORING = """
import json, sys
from iqa_armor.cli import main
for line in sys.stdin:
    words, needless = json.loads(line)
    sys.argv = ["iqa-armor", "score", *words, "--json"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    print(json.dumps([name for name in needless if name in sys.modules]), file=sys.stderr)
"""


class Residual(nn.Module):
    """What small networks consist of: pools, a shortcut, averages, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.SiLU())
        self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images)
        return self.head(torch.relu(maps + self.inner(maps)).mean((2, 3)))


def imported(commands: list[list[object]]) -> list[list[str]]:
    """Return what one process has imported after each of its commands."""
    told = "".join(json.dumps([[str(word) for word in words], NEEDLESS]) + "\n" for words in commands)
    done = subprocess.run([sys.executable, "-c", SCORING], input=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]


def saved(network: nn.Module, path: Path) -> Path:
    model = QualityModel(trace(network.eval(), torch.zeros(1, 3, 32, 40)), Preprocessing(size=(32, 40)))
    save_artifact(model, path, recipe={}, provenance={})
    return path


def with_block(backend: str) -> nn.Module:
    layers = list(small_network())
    return nn.Sequential(*layers[:6], RobustBlock(24, backend=backend, pool="square"), *layers[6:])


def test_scoring_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    networks = {"plain": small_network(), "residual": Residual()} | {name: with_block(name) for name in BACKENDS}
    image = write_images(tmp_path / "images", count=1) / "000.png"
    ours: list[list[object]] = [
        [saved(each, tmp_path / f"{name}.safetensors"), image] for name, each in networks.items()
    ]
    (tmp_path / "tiny.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1))\n"
    )
    torch.save(nn.Sequential(nn.Conv2d(3, 1, 3)).state_dict(), tmp_path / "m.pt")
    factory = [tmp_path / "m.pt", image, "--arch", f"{tmp_path}/tiny.py:make", "--input-size", "own"]
    assert imported([*ours, factory]) == [[]] * (len(networks) + 1)
