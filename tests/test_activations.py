"""Smooth activations: the formula, the surgery, files with them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import small_network
from test_cli import arch, checkpoint, run, spec  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.artifact.storage import load_artifact, save_artifact
from iqa_armor.defenses.activations import replace_activations
from iqa_armor.errors import RecipeError, SurgeryError
from iqa_armor.export.write import export_model
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.models.sqish import Sqish
from iqa_armor.recipe import Recipe, Training

EXAMPLE = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """Every way of writing a rectifier, one layer called twice, and bent functions that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.act, self.leaky = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.LeakyReLU(0.1)
        self.head, self.norm, self.last = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.act(self.leaky(self.act(self.trunk(images))))
        maps = torch.relu(functional.relu6(functional.leaky_relu(maps, 0.2))).relu()
        maps = functional.hardswish(maps.clamp(0, 5))
        return self.last(functional.relu(self.norm(self.head(maps))).mean((2, 3)))


def test_sqish_by_hand() -> None:
    smooth = Sqish(0.25, 2.0, 0.5)
    # x = 1: .25 + .75 / sqrt(1 + 2 exp(-.75)); x = -2: -.5 - 1.5 / sqrt(1 + 2 exp(1.5)).
    expected = [0.25 + 0.75 / math.sqrt(1 + 2 * math.exp(-0.75)), -0.5 - 1.5 / math.sqrt(1 + 2 * math.exp(1.5)), 0.0]
    torch.testing.assert_close(smooth(torch.tensor([1.0, -2.0, 0.0])), torch.tensor(expected))
    torch.testing.assert_close(Sqish()(torch.tensor(1.0)), torch.tensor(0.01 + 0.99 / math.sqrt(1 + math.exp(-1.98))))


def test_sqish_nears_leaky_relu_as_it_sharpens() -> None:
    points = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    gaps = [float((Sqish(0.1, 1.0, g)(points) - functional.leaky_relu(points, 0.1)).abs().max()) for g in (1, 10, 100)]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2] > 0
    assert gaps[2] < 0.01


def test_derivative_of_sqish_is_smooth_and_finite_everywhere() -> None:
    points = torch.cat([torch.linspace(-4, 4, 8001), torch.tensor([-1e4, -300.0, 300.0, 1e4])]).double()
    points.requires_grad_()
    (slope,) = torch.autograd.grad(Sqish()(points).sum(), points)
    assert slope.isfinite().all()
    assert float(slope[:8001].diff().abs().max()) < 2e-3  # a jump, as ReLU has at 0, would be 1
    torch.testing.assert_close(slope[8001:], torch.tensor([0.01, 0.01, 1.0, 1.0]).double())
    assert torch.autograd.gradcheck(Sqish(), torch.randn(5, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("constants", [(1.0, 1.0, 1.0), (-0.1, 1.0, 1.0), (0.1, 0.0, 1.0), (0.1, 1.0, math.inf)])
def test_constants_out_of_range_are_refused(constants: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="Sqish needs"):
        Sqish(*constants)


@pytest.mark.parametrize(("kind", "layer"), [("elu", nn.ELU), ("silu", nn.SiLU), ("gelu", nn.GELU), ("sqish", Sqish)])
def test_every_rectifier_becomes_smooth_and_keeps_its_name(kind, layer) -> None:
    traced = trace(Mixed(), EXAMPLE)
    names = {node.name for node in traced.graph.nodes}
    replaced = replace_activations(traced, kind)
    assert len(replaced) == 8
    assert {node.name for node in traced.graph.nodes} == names
    layers = [module for module in traced.modules() if not list(module.children())]
    assert sum(type(module) is layer for module in layers) == 8
    assert not any(isinstance(module, nn.ReLU | nn.LeakyReLU) for module in layers)
    assert {"clamp", "hardswish"} <= names
    retraced = trace(traced, EXAMPLE)
    torch.testing.assert_close(retraced(EXAMPLE), traced(EXAMPLE), rtol=0, atol=0)


def test_replaced_network_computes_with_the_smooth_function() -> None:
    network = small_network().eval()
    traced = trace(network, EXAMPLE)
    replace_activations(traced, "silu")
    for index in (2, 5, 8):
        network[index] = nn.SiLU()
    torch.testing.assert_close(traced(EXAMPLE), network(EXAMPLE), rtol=0, atol=0)


def test_readers_of_what_was_rectified_in_place_read_the_activation() -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.behind = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            return (self.behind(self.act(maps)) + maps).mean((1, 2, 3))

    network = Shortcut().eval()
    traced = trace(network, EXAMPLE)
    replace_activations(traced, "silu")
    maps = functional.silu(network.conv(EXAMPLE))
    torch.testing.assert_close(traced(EXAMPLE), (network.behind(maps) + maps).mean((1, 2, 3)))


def test_only_activations_behind_new_layers_are_replaced() -> None:
    traced = trace(Mixed(), EXAMPLE)
    assert replace_activations(traced, "silu", fresh=["norm.weight", "norm.bias", "last.weight"]) == ["relu_2"]
    assert isinstance(traced.get_submodule("act"), nn.ReLU)
    resnet = trace(torchvision.models.resnet18(num_classes=1), EXAMPLE)
    # The last activation also reads, through a shortcut, a layer that is not new.
    with pytest.raises(SurgeryError, match="not pretrained"):
        replace_activations(resnet, "elu", fresh=["layer4.1.bn2.weight"])
    last_stage = [name for name, _ in resnet.named_parameters() if name.startswith("layer4.")]
    assert len(replace_activations(resnet, "elu", fresh=last_stage)) == 4


def test_networks_without_rectifiers_are_refused() -> None:
    traced = trace(nn.Sequential(nn.Conv2d(3, 1, 32), nn.SiLU(), nn.Flatten()), EXAMPLE)
    with pytest.raises(SurgeryError, match=r"no ReLU.*--activation keep"):
        replace_activations(traced, "gelu")
    with pytest.raises(SurgeryError, match="not pretrained"):
        replace_activations(trace(small_network(), EXAMPLE), "gelu", fresh=["11.weight"])


@pytest.mark.parametrize("kind", ["elu", "silu", "gelu", "sqish"])
def test_file_with_smooth_activations_scores_the_same(kind, tmp_path: Path) -> None:
    traced = trace(small_network(), EXAMPLE)
    replace_activations(traced, kind)
    scale = ScoreScale(-1.0, 1.0)
    model = QualityModel(traced, Preprocessing(size=(32, 40)), scale=scale, name="small").eval()
    save_artifact(model, tmp_path / "model.safetensors", recipe={}, provenance={})
    with torch.no_grad():
        torch.testing.assert_close(load_artifact(tmp_path / "model.safetensors")(EXAMPLE), model(EXAMPLE))
    if kind == "sqish":  # which no exporter knows; a file that scored otherwise would be refused
        assert export_model(model, tmp_path / "model.onnx").path.is_file()


@pytest.mark.parametrize("command", ["train", "harden"])
def test_commands_replace_activations(arch, spec, tmp_path: Path, command: str) -> None:  # noqa: F811
    base, output = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    options = ("--data", spec, "--epochs", 1, "--device", "cpu")
    if command == "harden":
        assert run("train", arch, "-o", base, *options).exit_code == 0
    source = arch if command == "train" else base
    done = run(command, source, "-o", output, *options, "--activation", "sqish", "--json")
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)["smooth_activations"]) == 3
    kinds = [type(module) for module in load_artifact(output).modules()]
    assert kinds.count(Sqish) == 3
    assert nn.ReLU not in kinds


def test_new_scope_follows_the_weights_that_were_found(arch, spec, tmp_path: Path) -> None:  # noqa: F811
    state = small_network().state_dict()
    state = {name: value for name, value in state.items() if not name.startswith(("6.", "7.", "11."))}
    torch.save(state, tmp_path / "part.pt")
    options = ("--data", spec, "--epochs", 1, "--activation", "silu", "--activation-scope", "new", "--json")
    done = run("train", arch, "--weights", tmp_path / "part.pt", "-o", tmp_path / "a.safetensors", *options)
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)["smooth_activations"]) == 1
    again = run("train", tmp_path / "a.safetensors", "-o", tmp_path / "b.safetensors", *options)
    assert again.exit_code == 4
    assert "not pretrained" in again.stderr


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RecipeError, match="activation_scope: a model that is hardened has no new layers"):
        Recipe.read({"activation": "silu", "activation_scope": "new"})
    with pytest.raises(RecipeError, match="activation: must be one of keep, elu"):
        Training.read({"activation": "mish"})
