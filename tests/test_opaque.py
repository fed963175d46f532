"""Modules that stay their author's code: surgery works around them, and files need their source."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import RoIPool
from typer.testing import CliRunner

from iqa_armor.artifact.storage import load_artifact, read_metadata
from iqa_armor.cli import app
from iqa_armor.errors import ModelLoadError
from iqa_armor.pipeline.load import load_model
from iqa_armor.pipeline.settings import Opening


class Choosing(nn.Module):
    """What it does depends on pixels, so it cannot be traced."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(channels, channels)

    def forward(self, maps: Tensor, factor: float = 1.0) -> Tensor:
        weights = self.weigh(maps.mean((2, 3))).sigmoid()
        if float(weights.mean()) > 2:
            weights = weights * 0
        return maps * weights[:, :, None, None] * factor


class Vanishing(nn.Module):
    """It is traced, but what it calls has no stored form."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.special.erfcx(maps.abs())


class Subject(nn.Module):
    """A trunk with such a module between its stages."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.parts = nn.ModuleDict({"inner": inner})
        self.last, self.norm, self.fc = nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.parts["inner"](self.first(self.stem(x).relu()).relu())
        return self.fc(self.norm(self.last(x)).relu().mean((2, 3)))


def choosing() -> nn.Module:
    return Subject(Choosing(32))


def vanishing() -> nn.Module:
    return Subject(Vanishing())


class Regions(Subject):
    """It pools a region of each image, as PaQ-2-PiQ does."""

    def forward(self, x: Tensor) -> Tensor:
        maps = self.last(self.first(self.stem(x).relu()).relu())
        whole = torch.tensor([0, 0, x.shape[-1], x.shape[-2]]).reshape(1, 4).to(x)
        return self.fc(self.norm(self.parts["inner"](maps, [whole] * x.shape[0])).flatten(1))


def regions() -> nn.Module:
    return Regions(RoIPool((1, 1), 1 / 8))


def rooted() -> nn.Module:
    class Rooted(Subject):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.mean() > 0 else -x)

    return Rooted(nn.Identity())


DATA = ("--data", "synthetic:scenes=6,size=64x64", "--input-size", "32x32")


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


def files(name: str, folder: Path) -> tuple[Path, str]:
    torch.manual_seed(0)
    path = folder / f"{name}.pt"
    torch.save(getattr(sys.modules[__name__], name)().state_dict(), path)
    return path, f"{__name__}:{name}"


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("choosing", ["--leaf", "parts.inner"]),
        *((name, ["--allow-source"]) for name in ("choosing", "vanishing", "regions")),
    ],
)
def test_surgery_works_around_what_stays_code(name: str, flags: list[str], tmp_path: Path) -> None:
    path, arch = files(name, tmp_path)
    code, _, told = run("harden", path, "--arch", arch, *DATA, "--epochs", 0, "-o", tmp_path / "plain.safetensors")
    assert code in (3, 4), told
    out = tmp_path / "hard.safetensors"
    code, text, told = run("harden", path, "--arch", arch, *DATA, *flags, "--epochs", 1, "-o", out, "--json")
    assert code == 0, told
    assert json.loads(text)["pruned"]["share"] > 0.02
    assert read_metadata(out)["needs_source"] is True
    with pytest.raises(ModelLoadError, match=r"name \w+ source with --arch"):
        load_artifact(out)
    model = load_model(out, arch)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), load_model(out, opening=Opening(arch=arch))(images))
    code, _, told = run("evaluate", out, "--arch", arch, *DATA[:2], "--attack", "pgd1", "--epsilon", 2, "--limit", 4)
    assert code == 0, told
    again = tmp_path / "again.safetensors"
    code, _, told = run(
        "harden", out, "--arch", arch, *DATA[:2], "--position", "none", "--prune", 0, "--epochs", 0, "-o", again
    )
    assert code == 0, told
    assert torch.equal(load_model(again, arch)(images), model(images))


def test_export_goes_as_far_as_the_source_does(tmp_path: Path) -> None:
    path, arch = files("vanishing", tmp_path)
    out = tmp_path / "hard.safetensors"
    assert run("harden", path, "--arch", arch, *DATA, "--allow-source", "--epochs", 0, "-o", out)[0] == 0
    code, _, told = run("export", out, "--arch", arch, "-o", tmp_path / "hard.pt2")
    assert code == 0, told


def test_what_the_networks_own_forward_does_is_refused_with_the_reason(tmp_path: Path) -> None:
    path, arch = files("rooted", tmp_path)
    code, _, told = run(
        "harden", path, "--arch", arch, *DATA, "--allow-source", "--epochs", 0, "-o", tmp_path / "o.safetensors"
    )
    assert code == 4
    assert "depends on the pixels" in told


def test_a_leaf_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path, arch = files("choosing", tmp_path)
    with pytest.raises(ModelLoadError, match=r"no module 'parts.outer'.*stem, first, parts"):
        load_model(path, arch, opening=Opening(leaf=("parts.outer",)))
