"""Builds one honest artifact and edited copies of it, for the tests of hostile and broken files."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iqa_armor.artifact.storage import load_artifact, save_artifact
from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.ortho.block import RobustBlock

Document = dict[str, Any]
Edit = Callable[[Document], object]

# Python that leaves a trace in the working folder.
CODE = '__import__("pathlib").Path("executed").touch()'
FN, METHOD = "call_function", "call_method"


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


def node(document: Document, op: str, target: str = "") -> dict[str, Any]:
    return next(n for n in document["nodes"] if n["op"] == op and target in n["target"])


def change(op: str, target: str = "", /, **fields: object) -> Edit:
    return lambda document: node(document, op, target).update(fields)


def insert(**stored: object) -> Edit:
    """Return an edit that puts one more node before the output."""
    complete = {
        "op": "call_function",
        "target": "operator.add",
        "args": [{"node": 0}, 1],
        "kwargs": {},
        **stored,
    }
    return lambda document: document["nodes"].insert(-1, complete)


def setting(*path: str, to: object) -> Edit:
    def edit(document: Document) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = to

    return edit


def rename_leaf(name: str) -> Edit:
    def edit(document: Document) -> None:
        document["leaves"][name] = document["leaves"].pop("body.2")
        node(document, "call_module", "body.2")["target"] = name

    return edit


def assert_refused(honest: Path, folder: Path, edit: Edit, message: str) -> None:
    """Check that an edited copy is refused with a message that names cause and file, and that nothing ran."""
    path = forged(honest, folder / "hostile.safetensors", edit)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_artifact(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 3
    assert not Path("executed").exists()
    assert not (folder / "executed").exists()
