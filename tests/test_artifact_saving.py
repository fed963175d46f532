"""What an artifact records, what cannot be stored, and that a file appears whole or not at all."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, fx, nn

from iqa_armor.artifact.storage import is_artifact, read_metadata, save_artifact
from iqa_armor.errors import ArmorError, ModelLoadError
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale

SIZE = (64, 64)


def model_of(network: nn.Module, size: tuple[int, int] | None = SIZE) -> QualityModel:
    preprocessing = Preprocessing(size=size, interpolation="bicubic", antialias=False, mean=(0.5, 0.4, 0.3))
    return QualityModel(network.eval(), preprocessing, scale=ScoreScale(1.5, 9.25, False), name="tiny", arch="own:net")


def saved(network: nn.Module, folder: Path, size: tuple[int, int] | None = SIZE) -> tuple[QualityModel, Path]:
    model, path = model_of(network, size), folder / "model.safetensors"
    save_artifact(model, path, recipe={"prune": 0.1}, provenance={"seed": 3})
    return model, path


def scores(model: QualityModel, size: tuple[int, int] = SIZE) -> Tensor:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(images)


class Tiny(nn.Module):
    """The smallest network with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images).mean((1, 2, 3))


def test_metadata_is_recorded_as_given(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    provenance = {
        "sha256": "ab",
        "seed": 7,
        "metrics": {"srocc": float("nan")},
        "source": Path("a/b.pt"),
        "list": (1, 2),
    }
    save_artifact(model_of(Tiny()), path, recipe={"prune": 0.1}, provenance=provenance)
    metadata = read_metadata(path)
    assert metadata["recipe"] == {"prune": 0.1}
    assert metadata["provenance"] == {
        "sha256": "ab",
        "seed": 7,
        "metrics": {"srocc": None},
        "source": "a/b.pt",
        "list": [1, 2],
    }
    assert metadata["format"] == 1
    assert "nodes" not in metadata


def test_the_file_is_plain_safetensors_without_source(tmp_path: Path) -> None:
    _, path = saved(Tiny(), tmp_path)
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["iqa_armor"])
        assert set(file.keys()) == set(description["tensors"])
    assert {node["op"] for node in description["nodes"]} <= {
        *("placeholder", "get_attr", "call_module", "call_function", "call_method", "output"),
    }


def test_is_artifact_knows_its_own_files(tmp_path: Path) -> None:
    _, path = saved(Tiny(), tmp_path)
    foreign = tmp_path / "foreign.pt"
    torch.save({}, foreign)
    assert is_artifact(path)
    assert not is_artifact(foreign)
    assert not is_artifact(tmp_path / "missing")
    assert not is_artifact(tmp_path)


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_an_interrupted_save_leaves_the_old_file(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = saved(Tiny(), tmp_path)
    before = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*((Path, "replace") if broken == "replace" else (os, "fsync")), interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_artifact(model_of(Tiny()), path, recipe={}, provenance={})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArmorError, match=r"cannot write .*nowhere"):
        save_artifact(model_of(Tiny()), tmp_path / "nowhere" / "m.safetensors", recipe={}, provenance={})


class Custom(nn.ReLU):
    """A layer of the user's own that looks like a torch.nn one to the tracer."""


Custom.__module__ = "torch.nn.custom"


def weights_with_nan() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1))
    network[0].weight.data[0, 0] = float("nan")
    return network


def with_hook() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1))
    network[0].register_forward_hook(lambda *_: None)
    return network


class Singular(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.linalg.matrix_rank(images.mean(1)).float()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 1, 1), Custom(), nn.AdaptiveAvgPool2d(1)), "torch.nn.custom.Custom"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 1, 1)), nn.AdaptiveAvgPool2d(1)),
            "Conv2d",
        ),
        (weights_with_nan(), "NaN or infinite in '0.weight'"),
        (with_hook(), "forward hooks"),
        (Singular(), "matrix_rank"),
    ],
)
def test_what_has_no_stored_form_is_refused_before_writing(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=message):
        saved(fx.symbolic_trace(network), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_records_must_be_json_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe\.model must hold JSON values only"):
        save_artifact(model_of(Tiny()), tmp_path / "m", recipe={"model": Tiny()}, provenance={})
