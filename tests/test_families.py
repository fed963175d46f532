"""Architectures of timm and pyiqa: built without a download, loaded from the user's file, hardened."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from iqa_armor import load_model
from iqa_armor.artifact.storage import load_artifact
from iqa_armor.cli import app
from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.models.build import build, offline


def built(arch: str) -> QualityModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(arch)
    assert isinstance(model, QualityModel)
    return model.eval()


def saved(arch: str, path: Path) -> QualityModel:
    """Write an architecture's random weights as BasicSR nests them and return the model."""
    model = built(arch)
    torch.save({"params": model.network.state_dict()}, path)
    return model


@pytest.mark.parametrize("package", ["timm", "pyiqa"])
def test_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # importing it now fails
    with pytest.raises(ModelLoadError, match=rf"pip install 'iqa-armor\[{package}\]'"):
        build(f"{package}:cnniqa")


def test_only_what_a_family_names_is_looked_up_in_it() -> None:
    with pytest.raises(ModelLoadError, match="timm:NAME, pyiqa:NAME"):
        build("timn")


def test_offline_refuses_connections_and_mends_everything_afterwards() -> None:
    before = socket.getaddrinfo, nn.Module.load_state_dict
    with pytest.raises(ModelLoadError, match="something tries to download"), offline("something"):
        socket.create_connection(("localhost", 9))
    assert (socket.getaddrinfo, nn.Module.load_state_dict) == before


def test_timm_network_has_its_own_preprocessing_and_one_score() -> None:
    pytest.importorskip("timm")
    model = built("timm:vit_tiny_patch16_224.augreg_in21k")
    half = (0.5, 0.5, 0.5)
    assert model.preprocessing == Preprocessing(size=(224, 224), interpolation="bicubic", mean=half, std=half)
    assert model.arch == "timm:vit_tiny_patch16_224.augreg_in21k"
    assert model(torch.rand(2, 3, 224, 224)).shape == (2,)


def test_unknown_names_are_answered_with_near_ones() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ModelLoadError, match="did you mean resnet"):
        build("timm:resnet999")


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18", "local-dir:/nowhere", ""])
def test_timm_names_that_would_fetch_are_refused(name: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ModelLoadError, match="no network"):
        build(f"timm:{name}")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lpips", "with a reference"),
        ("piqe", "formula without weights"),
        ("niqe", "tries to download"),
        ("cnniqq", "did you mean cnniqa"),
    ],
)
def test_metrics_that_cannot_be_used_are_refused(name: str, reason: str) -> None:
    pytest.importorskip("pyiqa")
    with pytest.raises(ModelLoadError, match=reason):
        build(f"pyiqa:{name}")


@pytest.mark.parametrize(
    "name", ["cnniqa", "unique", "metaiqa", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dbcnn", "nima"))]
)
def test_pyiqa_network_has_a_gradient_and_its_own_scores(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyiqa")
    model = saved(f"pyiqa:{name}", tmp_path / "weights.pth")
    opened = load_model(tmp_path / "weights.pth", arch=f"pyiqa:{name}")
    images = torch.rand(1, 3, 96, 96).requires_grad_()
    scores = opened(images)
    torch.testing.assert_close(scores, model(images))
    torch.testing.assert_close(scores, model.network(images).flatten())  # it normalises its input itself
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert float(gradient.abs().max()) > 0
    assert opened.higher_is_better
    assert all(parameter.requires_grad for parameter in opened.parameters())


def test_weights_of_a_backbone_alone_are_not_enough(tmp_path: Path) -> None:
    pytest.importorskip("pyiqa")
    state = built("pyiqa:metaiqa").network.state_dict()
    part = {key: value for key, value in state.items() if key.startswith("resnet_layer")}
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(ModelLoadError, match=r"missing: .*head"):
        load_model(tmp_path / "part.pth", arch="pyiqa:metaiqa")


@pytest.mark.parametrize(
    ("arch", "size", "options"),
    [
        pytest.param("pyiqa:unique", "96x96", (), marks=pytest.mark.slow),
        ("pyiqa:cnniqa", "40x40", ("--position", "conv1")),
        ("timm:resnet18", "64x64", ()),
    ],
)
def test_hardening_from_the_command_line(
    arch: str, size: str, options: tuple[str, ...], image_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip(arch.partition(":")[0])
    saved(arch, tmp_path / "weights.pth")
    out = tmp_path / "hard.safetensors"
    arguments = ["harden", str(tmp_path / "weights.pth"), "--arch", arch, "--input-size", size, *options]
    arguments += ["--data", f"csv:{image_folder / 'labels.csv'}", "--epochs", "0", "-o", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert load_artifact(out)(torch.rand(1, 3, *map(int, size.split("x")))).shape == (1,)


def test_network_that_cannot_be_traced_exits_with_4(image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyiqa")
    saved("pyiqa:metaiqa", tmp_path / "weights.pth")
    arguments = ["harden", str(tmp_path / "weights.pth"), "--arch", "pyiqa:metaiqa", "--input-size", "96x96"]
    done = CliRunner().invoke(app, [*arguments, "--data", f"csv:{image_folder / 'labels.csv'}", "--epochs", "0"])
    assert done.exit_code == 4
    assert "metaiqa_arch.py" in done.output


def test_evaluating_a_pyiqa_model(image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyiqa")
    saved("pyiqa:cnniqa", tmp_path / "weights.pth")
    arguments = ["evaluate", str(tmp_path / "weights.pth"), "--arch", "pyiqa:cnniqa", "--input-size", "32x40"]
    arguments += ["--data", f"csv:{image_folder / 'labels.csv'}", "--attack", "pgd1", "--epsilon", "4", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (model,) = json.loads(done.stdout)["models"]
    assert model["attacks"]["pgd1"]["abs_gain"]


def test_scores_of_images_that_are_no_multiples_of_anything() -> None:
    pytest.importorskip("pyiqa")
    model = built("pyiqa:cnniqa")
    images: Tensor = torch.rand(2, 3, 33, 47)
    assert model(model.prepare(images)).shape == (2,)
