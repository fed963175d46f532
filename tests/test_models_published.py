"""The published architectures: the authors' outputs and files, tracing, formulas, surgery."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import memory_dataset
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor import load_model
from iqa_armor.artifact.storage import load_artifact
from iqa_armor.errors import ModelLoadError
from iqa_armor.graph.trace import trace
from iqa_armor.models import ARCHITECTURES
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.models.build import build
from iqa_armor.models.checkpoints import read_checkpoint
from iqa_armor.models.published import KonCept512, linearity_network
from iqa_armor.models.tres import Attention, L2Pooling, Position, TReS, project
from iqa_armor.models.weights import RESCALING, bare, load_matching, load_strict, match_architecture
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.pipeline.harden import harden
from iqa_armor.recipe import Recipe
from iqa_armor.surgery.stages import choose

# Names with the nodes that blocks stand on: before the last stage, in each branch.
CUTS = {
    "linearity": ["features_6_22_relu_2"],
    "linearity-resnet18": ["features_6_1_relu_1"],
    "koncept512": ["base_10_19_relu"],
    "dbcnn": ["features1_23", "features2_23"],
    "tres": ["model_layer3_5_relu_2"],
    "metaiqa": ["resnet_layer_layer3_1_relu_1"],
    "spaq": ["backbone_layer3_5_relu_2"],
}
PUBLISHED = {name: ARCHITECTURES[name] for name in (*CUTS, "linearity-resnet34", "linearity-resnet50")}
SMALL = "linearity-resnet18"


def seeded(name: str) -> QualityModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(name)
    assert isinstance(model, QualityModel)
    return model.eval()


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return bare(build(name))


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=CUTS)
def published(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    return request.param, seeded(request.param).network


@pytest.mark.parametrize("name", ["linearity", "koncept512", "dbcnn", "tres", "metaiqa", "spaq"])
def test_outputs_are_those_of_the_authors_code(shared: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("oracle_check", shared / "oracles" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    module = name if name == "tres" else "published"
    monkeypatch.setattr(sys, "argv", ["check.py", name, f"iqa_armor.models.{module}:{name}_network"])
    assert check.main() == 0


@pytest.mark.slow
def test_traces_whole_and_gives_the_same_scores_at_any_size(published: tuple[str, nn.Module]) -> None:
    name, network = published
    traced = trace(network, noise(1, 3, 96, 128))
    for size in ((96, 128), (75, 90), (133, 101)):
        images = noise(2, 3, *size)
        with torch.inference_mode():
            expected = network(images)
            torch.testing.assert_close(traced(images), expected, rtol=1e-5, atol=1e-6)
        assert expected.shape == (2, 1)
    assert [node.name for node in choose(traced, "last")] == CUTS[name]


def test_unknown_and_missing_names_are_refused(published: tuple[str, nn.Module]) -> None:
    _, network = published
    state = network.state_dict()
    with pytest.raises(ModelLoadError, match="unexpected: added"):
        load_strict(network, {**state, "added": torch.zeros(1)}, source="file")
    first = next(iter(state))
    with pytest.raises(ModelLoadError, match=f"missing: {first}"):
        load_strict(network, {key: value for key, value in state.items() if key != first}, source="file")


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_matched_to_their_own_architecture(name: str) -> None:
    state = {f"module.{key}": value for key, value in on_meta(name).state_dict().items()}
    candidates = {
        other: ARCHITECTURES[other] for other in (name, "koncept512", "spaq", "linearity-resnet34", "resnet50")
    }
    assert match_architecture(state, candidates) == name


@pytest.mark.parametrize(("k", "b"), [(2.0, 3.0), ([2.0, 5.0, 7.0], [3.0, 1.0, 1.0]), (torch.tensor(2.0), [3])])
def test_rescaling_beside_the_weights_becomes_part_of_the_score(tmp_path: Path, k: object, b: object) -> None:
    model, images = seeded(SMALL), torch.rand(2, 3, 64, 80)
    state = {f"module.{name}": value for name, value in model.network.state_dict().items()}
    torch.save({"model": state, "k": k, "b": b, "epoch": 3}, tmp_path / "linearity.pth")
    opened = load_model(tmp_path / "linearity.pth", arch=SMALL)
    with torch.inference_mode():
        torch.testing.assert_close(opened(images), 2 * model(images) + 3)


def test_rescaling_changes_no_network_that_has_none(tmp_path: Path) -> None:
    network = nn.Linear(3, 1)
    torch.save({"model": network.state_dict(), "k": 2.0, "b": 3.0}, tmp_path / "other.pth")
    stored = read_checkpoint(tmp_path / "other.pth").state
    assert isinstance(stored, dict)
    assert stored.keys() == {"weight", "bias", *RESCALING}
    load_strict(network, stored, source="other.pth")


def test_linearity_file_opens_without_naming_its_architecture(tmp_path: Path) -> None:
    state = linearity_network("resnet18").state_dict()
    torch.save({"model": state, "k": [1.0] * 3, "b": [0.0] * 3}, tmp_path / "file.pth")
    assert match_architecture(read_checkpoint(tmp_path / "file.pth").state, PUBLISHED) == SMALL


@pytest.mark.parametrize(
    ("name", "classifier", "part", "inside"),
    [
        (SMALL, "resnet18", "layer4.1.conv2.weight", "features.7.1.conv2.weight"),
        ("metaiqa", "resnet18", "fc.weight", "resnet_layer.fc.weight"),
        ("spaq", "resnet50", "conv1.weight", "backbone.conv1.weight"),
    ],
)
def test_training_may_start_from_a_classifier(name: str, classifier: str, part: str, inside: str) -> None:
    network, state = seeded(name).network, torchvision.models.get_model(classifier).state_dict()
    fresh = load_matching(network, state, source="imagenet.pth")
    assert torch.equal(network.state_dict()[inside], state[part])
    assert all(entry.startswith(("dr", "reg", "net.", "backbone.fc")) for entry in fresh)


def test_preprocessing_is_pinned() -> None:
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    expected = {
        "linearity": Preprocessing(size=(498, 664)),
        "koncept512": Preprocessing(size=(384, 512), **half),
        "dbcnn": Preprocessing(size=None),
        "tres": Preprocessing(size=(224, 224)),
        "metaiqa": Preprocessing(size=(224, 224)),
        "spaq": Preprocessing(size=(512, 682), **plain),
    }
    with torch.device("meta"):
        models = {name: build(name) for name in expected}
    assert {name: model.preprocessing for name, model in models.items()} == expected
    assert all(model.higher_is_better for model in models.values())


def test_koncept_averages_one_window_of_its_own_size_and_whole_ones_elsewhere() -> None:
    class Recorded(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features

    network = on_meta("koncept512")
    assert isinstance(network, KonCept512)
    network.base, network.fc = nn.Identity(), Recorded()  # type: ignore[assignment]
    maps = noise(2, 5, 10, 14)
    torch.testing.assert_close(network(maps), nn.AvgPool2d(8)(maps).flatten(1))
    large = noise(2, 5, 17, 25)
    torch.testing.assert_close(network(large), nn.AvgPool2d(8)(large).mean((2, 3)))
    torch.testing.assert_close(network(maps[:, :, :5]), maps[:, :, :5, :8].mean((2, 3)))


def test_dbcnn_is_the_bilinear_formula() -> None:
    network = seeded("dbcnn").network
    images = noise(2, 3, 75, 101)
    with torch.inference_mode():
        scene, distortion = network.features1(images), network.features2(images)
        assert scene.shape[2:] == (4, 6)
        assert distortion.shape[2:] == (5, 7)
        distortion = functional.interpolate(distortion, scene.shape[2:], mode="bilinear", align_corners=True)
        products = torch.einsum("nihw,njhw->nij", scene, distortion) / 24
        vector = (products.reshape(2, -1) + 1e-8).sqrt()
        expected = network.fc(vector / vector.norm(dim=1, keepdim=True))
        torch.testing.assert_close(network(images), expected)


def test_attention_is_that_of_torch() -> None:
    joint, parted = nn.MultiheadAttention(32, 4, batch_first=True).eval(), Attention(32, 4, dropout=0.5).eval()
    parted.load_state_dict({k.removeprefix("a."): v for k, v in project(prefixed(joint.state_dict())).items()})
    tokens, placed = noise(2, 7, 32), noise(2, 7, 32, seed=1)
    with torch.inference_mode():
        torch.testing.assert_close(parted(tokens, placed), joint(placed, placed, tokens)[0])


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"a.{name}": value for name, value in state.items()}


def test_two_averages_are_the_hann_window() -> None:
    maps, window = noise(1, 3, 9, 11), torch.hann_window(5, periodic=False)[1:-1]
    kernel = torch.outer(window, window) / window.sum() ** 2
    squares = functional.conv2d(maps**2, kernel.expand(3, 1, 3, 3), padding=1, groups=3)
    torch.testing.assert_close(L2Pooling()(maps), (squares + 1e-12).sqrt())


def test_places_are_embedded_by_sines_and_cosines() -> None:
    embedded = Position(16)(torch.zeros(2, 16, 3, 5)).unflatten(1, (3, 5))
    for row, column, pair in ((0, 0, 0), (1, 4, 2), (2, 3, 3)):
        frequency = 10000 ** (-2 * pair / 8)
        angles = [2 * torch.pi * (row + 1) / 3 * frequency, 2 * torch.pi * (column + 1) / 5 * frequency]
        for angle, first in zip(angles, (2 * pair, 8 + 2 * pair), strict=True):
            expected = torch.tensor([angle, angle + torch.pi / 2]).sin()
            torch.testing.assert_close(embedded[1, row, column, first : first + 2], expected, atol=1e-5, rtol=0)


def test_another_window_than_hanns_is_refused() -> None:
    network = on_meta("tres")
    assert isinstance(network, TReS)
    hann = torch.tensor([1.0, 2.0, 1.0])
    fitting = (torch.outer(hann, hann) / 16).expand(256, 1, 3, 3)
    assert "L2pooling_l1.filter" not in network.adapt({"L2pooling_l1.filter": fitting})
    assert "L2pooling_l1.filter" in network.adapt({"L2pooling_l1.filter": fitting * 1.01})


@pytest.mark.parametrize(
    ("name", "backend", "size"),
    [
        (SMALL, "cayley", (64, 90)),
        ("metaiqa", "aoc", (75, 80)),
        pytest.param("dbcnn", "aol", (64, 80), marks=pytest.mark.slow),
        pytest.param("spaq", "aol", (96, 128), marks=pytest.mark.slow),
        pytest.param("koncept512", "cayley", (139, 180), marks=pytest.mark.slow),
        pytest.param("tres", "aoc", (96, 128), marks=pytest.mark.slow),
        pytest.param("linearity", "cayley", (96, 128), marks=pytest.mark.slow),
    ],
)
def test_hardened_model_reloads_with_the_same_scores(name: str, backend: str, size: tuple, tmp_path: Path) -> None:
    model = seeded(name)
    model.set_preprocessing(replace(model.preprocessing, size=size))
    result = harden(model, memory_dataset(training=8), Recipe(backend=backend, epochs=0))
    result.save(tmp_path / "hardened.safetensors")
    opened, images = load_artifact(tmp_path / "hardened.safetensors"), torch.rand(2, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(opened(images), result.model(images), rtol=1e-6, atol=1e-7)
    assert sum(isinstance(module, RobustBlock) for module in opened.modules()) == len(CUTS[name])
    assert [block.node for block in result.blocks] == CUTS[name]
    assert result.pruned is not None
    assert result.pruned.share == pytest.approx(0.10, abs=0.015)


@pytest.mark.parametrize("k", ["2", None, {"a": 1}, [], torch.zeros(1).to("meta"), torch.tensor(1j)])
def test_other_things_called_k_are_no_rescaling(tmp_path: Path, k: object) -> None:
    torch.save({"model": {"weight": torch.ones(1)}, "k": k, "b": 3.0}, tmp_path / "other.pth")
    assert read_checkpoint(tmp_path / "other.pth").state.keys() == {"weight"}
