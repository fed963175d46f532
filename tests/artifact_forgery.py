"""Builds one honest artifact and edited copies of it, for the tests of hostile and broken files."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iqa_armor.artifact import save_artifact
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.ortho import RobustBlock

Document = dict[str, Any]
Edit = Callable[[Document], object]


class Network(nn.Module):
    """Has every kind of node: layers, a block, a function, a method, an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.block = RobustBlock(4)
        self.gain = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.block(self.body(images)) * self.gain
        return self.head(torch.flatten(maps.mean((2, 3)), 1, end_dim=-1))


def honest_artifact(path: Path) -> Path:
    """Write an artifact that holds every kind of node."""
    torch.manual_seed(0)
    model = QualityModel(Network().eval(), Preprocessing(size=(16, 16)), scale=ScoreScale(0, 1), name="honest")
    save_artifact(model, path, recipe={"prune": 0.1}, provenance={"seed": 1})
    return path


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path: Path, header: object, data: bytes) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def forged(honest: Path, path: Path, edit: Edit) -> Path:
    """Return a copy of an honest file whose description has been edited."""
    header, data = parts(honest)
    document = json.loads(header["__metadata__"]["iqa_armor"])
    edit(document)
    header["__metadata__"]["iqa_armor"] = json.dumps(document)
    return write(path, header, data)
