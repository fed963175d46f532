"""The quality model, built-in architectures and factories."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from iqa_armor.errors import ModelLoadError
from iqa_armor.models import ARCHITECTURES
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.models.build import build


class Mean(nn.Module):
    """Mean of the normalised input."""

    def forward(self, images):
        return images.mean((1, 2, 3))


def test_model_normalises_inside() -> None:
    model = QualityModel(Mean(), Preprocessing(size=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
    torch.testing.assert_close(model(torch.full((2, 3, 4, 4), 0.75)), torch.ones(2))


def test_prepare_resizes_once_and_leaves_sized_images_alone() -> None:
    model = QualityModel(Mean(), Preprocessing(size=(8, 12)))
    prepared = model.prepare(torch.randint(0, 256, (3, 30, 20), dtype=torch.uint8))
    assert prepared.shape == (3, 8, 12)
    assert float(prepared.min()) >= 0
    assert float(prepared.max()) <= 1
    assert model.prepare(prepared) is not None
    torch.testing.assert_close(model.prepare(prepared), prepared, rtol=0, atol=0)


def test_interpolation_is_pinned() -> None:
    image = torch.arange(16.0).view(1, 4, 4).expand(3, 4, 4) / 15
    # Pillow's nearest neighbour takes the pixel under each centre: rows and columns 1 and 3.
    nearest = Preprocessing(size=(2, 2), interpolation="nearest-exact").resize(image[None])
    torch.testing.assert_close(nearest[0, 0] * 15, torch.tensor([[5.0, 7.0], [13.0, 15.0]]))
    plain = Preprocessing(size=(2, 2), antialias=False).resize(image[None])
    torch.testing.assert_close(plain[0, 0] * 15, torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    smooth = Preprocessing(size=(2, 2)).resize(image[None])
    assert not torch.allclose(smooth, plain)


def test_network_with_several_outputs_is_refused() -> None:
    model = QualityModel(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), Preprocessing(size=None))
    with pytest.raises(ModelLoadError, match="one score per image"):
        model(torch.rand(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 3)}, "input size"),
        ({"interpolation": "lanczos"}, "needs interpolation out of nearest, "),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
    ],
)
def test_impossible_preprocessing_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**arguments)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_empty_score_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="score range"):
        ScoreScale(low, high)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "regnet_y_400mf", "googlenet"])
def test_built_in_architectures_give_one_score(name: str) -> None:
    network = build(name).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, 64, 64)).numel() == 2


def test_every_built_in_name_builds_on_the_meta_device() -> None:
    with torch.device("meta"):
        for name, factory in ARCHITECTURES.items():
            assert next(factory().parameters()).numel() > 0, name


def test_factory_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\ndef make():\n    return nn.Conv2d(3, 1, 1)\n")
    assert isinstance(build(f"{path}:make"), nn.Conv2d)


def test_factory_in_a_package_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_package.py").write_text("from torch import nn\ndef make():\n    return nn.Conv2d(3, 1, 1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(build("mine_package:make"), nn.Conv2d)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet19", "did you mean resnet18"),
        ("nowhere.module:make", "cannot be imported"),
        ("missing.py:make", "there is no file"),
        ("BROKEN:make", "cannot be run: SyntaxError"),
        ("FILE:absent", "has no architecture 'absent'"),
        ("FILE:number", "must return an nn.Module"),
        ("FILE:fails", "failed: ValueError: on purpose"),
    ],
)
def test_unusable_factory_is_refused_with_the_reason(tmp_path: Path, arch: str, message: str) -> None:
    (tmp_path / "file.py").write_text("def number():\n    return 3\ndef fails():\n    raise ValueError('on purpose')\n")
    (tmp_path / "broken.py").write_text("def make(:\n")
    arch = arch.replace("FILE", str(tmp_path / "file.py")).replace("BROKEN", str(tmp_path / "broken.py"))
    with pytest.raises(ModelLoadError, match=message):
        build(arch)


WRAPPED = """
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))

def parallel():
    return nn.DataParallel(plain())

def compiled():
    return torch.compile(plain(), backend="eager")

def both():
    return torch.compile(nn.DataParallel(plain()), backend="eager")
"""


@pytest.mark.parametrize("name", ["plain", "parallel", "compiled", "both"])
def test_wrappers_of_a_factory_are_taken_off(name: str, tmp_path: Path) -> None:
    (tmp_path / "wrapped.py").write_text(WRAPPED)
    network = build(f"{tmp_path / 'wrapped.py'}:{name}")
    assert type(network) is nn.Sequential
    assert list(network.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
