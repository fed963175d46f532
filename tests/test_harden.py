"""The whole hardening, from the library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import memory_dataset, small_network
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import VGG, make_layers

from iqa_armor.artifact.storage import load_artifact, read_metadata
from iqa_armor.data.base import Dataset
from iqa_armor.errors import DataError, ModelLoadError, RecipeError, SurgeryError
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.lipschitz import singular_values
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.pipeline.harden import harden, untrained
from iqa_armor.pipeline.hardened import Hardened
from iqa_armor.pipeline.train import train
from iqa_armor.recipe import Recipe, Training

QUICK = {"epochs": 4, "learning_rate": 1e-2, "batch_size": 16}
ONE_EPOCH = {**QUICK, "epochs": 1}


@pytest.fixture(scope="module")
def trained_once() -> QualityModel:
    model = QualityModel(small_network(), Preprocessing(size=(32, 40), mean=(0.5,) * 3, std=(0.25,) * 3), name="small")
    return train(model.eval(), memory_dataset(), Training(**QUICK)).model


@pytest.fixture
def trained(trained_once: QualityModel) -> QualityModel:
    return deepcopy(trained_once)


@pytest.fixture(scope="module")
def hardened_once(trained_once: QualityModel) -> Hardened:
    return harden(deepcopy(trained_once), memory_dataset(), Recipe(**QUICK))


def scores_of(model: QualityModel, dataset: Dataset) -> torch.Tensor:
    images = dataset.splits["test"]
    with torch.no_grad():
        return model(torch.stack([model.prepare(images[i]) for i in range(len(images))]))


def blocks_of(model: nn.Module) -> list[RobustBlock]:
    return [module for module in model.modules() if isinstance(module, RobustBlock)]


@pytest.mark.parametrize("backend", ["cayley", "aoc", "aol"])
def test_hardened_model_still_predicts_and_holds_an_orthogonal_block(
    trained, dataset, hardened_once: Hardened, backend: str
) -> None:
    is_there = backend == hardened_once.recipe.backend
    result = hardened_once if is_there else harden(trained, dataset, Recipe(backend=backend, **QUICK))
    (block,) = blocks_of(result.model)
    values = singular_values(block.orthogonal, channels=block.channels // 2, size=(4, 5))
    assert float(values.max()) <= 1 + 1e-4
    if backend != "aol":
        assert float(values.min()) >= 1 - 1e-4
    assert float(srocc(scores_of(result.model, dataset), dataset.splits["test"].mos)) > 0.7
    assert result.blocks[0].channels == block.channels < 24
    assert result.pruned is not None


def test_the_original_is_left_untouched(trained, dataset) -> None:
    before, state = scores_of(trained, dataset), {k: v.clone() for k, v in trained.state_dict().items()}
    harden(trained, dataset, Recipe(**ONE_EPOCH))
    torch.testing.assert_close(scores_of(trained, dataset), before, rtol=0, atol=0)
    assert all(torch.equal(state[key], value) for key, value in trained.state_dict().items())
    assert not blocks_of(trained)


def test_scores_keep_the_unit_of_the_original(trained, hardened_once: Hardened) -> None:
    result = hardened_once
    assert trained.scale is not None
    assert result.model.scale is not None
    assert result.model.scale.low == pytest.approx(trained.scale.low, abs=0.3 * trained.scale.width)
    assert result.model.scale.high == pytest.approx(trained.scale.high, abs=0.3 * trained.scale.width)


def test_identity_block_without_pruning_or_tuning_changes_little(trained, dataset) -> None:
    recipe = Recipe(init="identity", prune=0, epochs=0, pool="none")
    result = harden(trained, dataset, recipe)
    before = float(srocc(scores_of(trained, dataset), dataset.splits["test"].mos))
    after = float(srocc(scores_of(result.model, dataset), dataset.splits["test"].mos))
    assert abs(before - after) < 0.1  # half of 24 channels is little; real networks are held to 0.03
    assert list(result.srocc) == ["original", "block installed", "result"]


def test_control_has_no_block_and_all_its_channels(trained, dataset) -> None:
    result = harden(trained, dataset, Recipe(position="none", prune=0, **ONE_EPOCH))
    assert not blocks_of(result.model)
    assert result.pruned is None
    assert sum(p.numel() for p in result.model.parameters()) == sum(p.numel() for p in trained.parameters())


def test_pruning_alone_adds_no_block(trained, dataset) -> None:
    result = harden(trained, dataset, Recipe(position="none", prune=0.4, **QUICK))
    assert result.blocks == ()
    assert not blocks_of(result.model)
    assert list(result.srocc) == ["original", "pruned", "result"]
    assert result.pruned is not None
    assert result.pruned.parameters[1] < result.pruned.parameters[0]
    assert float(srocc(scores_of(result.model, dataset), dataset.splits["test"].mos)) > 0.7


@pytest.mark.parametrize("defense", ["nt", "at"])
def test_defense_goes_with_block_and_pruning(trained, dataset, defense: str) -> None:
    result = harden(trained, dataset, Recipe(defense=defense, activation="sqish", **{**QUICK, "epochs": 3}))
    assert list(result.srocc) == ["original", "activations replaced", "pruned", "block installed", "result"]
    assert len(blocks_of(result.model)) == 1
    assert len(result.provenance["smooth_activations"]) == 3
    assert float(srocc(scores_of(result.model, dataset), dataset.splits["test"].mos)) > 0.7


def test_checkpoint_of_another_defense_is_refused(trained, dataset, tmp_path: Path) -> None:
    options = RunOptions(checkpoint=str(tmp_path / "resume.pt"))
    harden(trained, dataset, Recipe(epochs=1), options=options)
    with pytest.raises(RecipeError, match="other settings"):
        harden(trained, dataset, Recipe(epochs=1, defense="at"), options=replace(options, resume=True))


def test_two_runs_of_one_recipe_give_the_same_file(trained, dataset, tmp_path: Path) -> None:
    for name in ("one", "two"):
        harden(trained, dataset, Recipe(**ONE_EPOCH)).save(tmp_path / f"{name}.safetensors")
    one, two = (load_artifact(tmp_path / f"{name}.safetensors").state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_saved_file_tells_where_it_came_from(trained, dataset, tmp_path: Path) -> None:
    path = tmp_path / "hardened.safetensors"
    result = harden(trained, dataset, Recipe(**ONE_EPOCH))
    result.save(str(path))
    stored = read_metadata(path)
    assert result.pruned is not None
    assert stored["provenance"]["pruned"]["kept"] == result.pruned.facts()["kept"] != []
    assert stored["recipe"]["backend"] == "cayley"
    assert stored["provenance"]["data"] == {
        "spec": "memory",
        "fingerprint": dataset.fingerprint,
        "synthetic": False,
        "images": {"training": 160, "test": 40},
        "files": [],
    }
    assert stored["provenance"]["held_out_srocc"].keys() == {"original", "pruned", "block installed", "result"}


def test_dry_run_operates_but_trains_nothing(trained, dataset) -> None:
    result = harden(trained, *untrained(dataset, Recipe(**QUICK)))
    assert result.fit.epochs == ()
    assert len(blocks_of(result.model)) == 1


def test_best_epoch_is_not_chosen_on_the_reported_split(trained, dataset, hardened_once: Hardened) -> None:
    one = hardened_once
    other_test = memory_dataset(seed=0).splits["test"].select(range(5))
    same_training = Dataset("memory", {"training": dataset.splits["training"], "test": other_test})
    two = harden(trained, same_training, Recipe(**QUICK))
    assert one.fit.best == two.fit.best
    assert [e.srocc for e in one.fit.epochs] == [e.srocc for e in two.fit.epochs]


def test_interrupted_hardening_resumes_to_the_same_model(
    trained, dataset, hardened_once: Hardened, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(task: str, done: int, total: int, detail: str = "") -> None:
        if task == "fine-tuning" and done > total // 2 and not detail:
            raise Stopped

    recipe, checkpoint = Recipe(**QUICK), tmp_path / "resume.pt"
    with pytest.raises(Stopped):
        harden(trained, dataset, recipe, options=RunOptions(checkpoint=checkpoint, progress=stop))
    resumed = harden(trained, dataset, recipe, options=RunOptions(checkpoint=checkpoint, resume=True))
    torch.testing.assert_close(
        scores_of(resumed.model, dataset), scores_of(hardened_once.model, dataset), rtol=0, atol=0
    )


def test_lower_is_better_stays_so(trained, dataset) -> None:
    falling = trained.with_network(nn.Sequential(trained.network, Negate()), scale=None)
    falling.scale = ScoreScale(-100.0, 0.0, higher_is_better=False)
    result = harden(falling, dataset, Recipe(**QUICK))
    assert float(srocc(scores_of(result.model, dataset), dataset.splits["test"].mos)) < -0.7
    assert result.model.scale is not None
    assert not result.model.scale.higher_is_better


class Negate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


def test_declared_direction_is_used_before_a_range_is_known(trained, dataset) -> None:
    network = nn.Sequential(trained.network, Negate())
    falling = QualityModel(network, trained.preprocessing, higher_is_better=False)
    result = harden(falling, dataset, Recipe(position="none", prune=0, **ONE_EPOCH))
    assert result.srocc["original"] > 0.7
    assert float(srocc(scores_of(result.model, dataset), dataset.splits["test"].mos)) < -0.7


def test_too_few_training_images_are_refused(trained) -> None:
    with pytest.raises(DataError, match="too few"):
        harden(trained, memory_dataset(training=3), Recipe(**QUICK))


def test_hardening_a_hardened_model_again_is_refused(trained, dataset) -> None:
    once = harden(trained, dataset, Recipe(**{**QUICK, "epochs": 0}))
    with pytest.raises(SurgeryError, match="RobustBlock"):
        harden(once.model, dataset, Recipe(**QUICK))


class Unstorable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0(x)


def test_what_could_not_be_saved_is_refused_before_training(trained, dataset) -> None:
    model = trained.with_network(nn.Sequential(trained.network, Unstorable()), scale=None)

    def stop(task: str, done: int, total: int, detail: str = "") -> None:
        assert task != "fine-tuning"

    with pytest.raises(ModelLoadError, match="could not be stored once it is hardened"):
        harden(model, dataset, Recipe(**QUICK), options=RunOptions(progress=stop))


CHECK = """
import sys, torch
from iqa_armor import load_model
for line in sys.stdin:
    path, expected = line.split()
    model = load_model(path)
    images, scores = torch.load(expected, weights_only=True)
    with torch.inference_mode():
        print(float((model(images) - scores).abs().max() / scores.abs().max()), flush=True)
"""


@pytest.fixture(scope="module")
def other_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path, Path], float]]:
    """Return how far scores of a file are from the expected ones where the file's network was never built before."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", CHECK], cwd=tmp_path_factory.mktemp("other"), **pipes) as process:

        def error(path: Path, expected: Path) -> float:
            process.stdin.write(f"{path} {expected}\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield error


def few_layers(family: str) -> nn.Module:
    """Return a network of torchvision's families with few or narrow layers."""
    if family == "resnet":
        return ResNet(Bottleneck, [1, 2, 1, 1], num_classes=1)
    if family == "densenet":
        return DenseNet(growth_rate=16, block_config=(2, 3, 3, 2), num_init_features=32, num_classes=1)
    network = VGG(make_layers([32, "M", 64, "M", 128, 128, "M", 128, 128, "M"]), num_classes=1)
    network.classifier = nn.Sequential(nn.Linear(128 * 49, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 1))
    return network


def reloads(network: nn.Module, backend: str, other_process: Callable[[Path, Path], float], folder: Path) -> None:
    model = QualityModel(network, Preprocessing(size=(64, 80)), name="subject")
    result = harden(model, memory_dataset(training=8), Recipe(backend=backend, epochs=0))
    path = folder / "hardened.safetensors"
    result.save(path)
    images: Tensor = torch.rand(2, 3, 64, 80)
    with torch.inference_mode():
        torch.save([images, result.model(images)], folder / "expected.pt")
    assert other_process(path, folder / "expected.pt") < 1e-5
    assert len(blocks_of(result.model)) == 1


@pytest.mark.parametrize(("family", "backend"), [("resnet", "aoc"), ("densenet", "cayley"), ("vgg", "aol")])
def test_model_of_a_known_family_reloads_in_another_process(family: str, backend: str, other_process, tmp_path) -> None:
    torch.manual_seed(0)
    reloads(few_layers(family), backend, other_process, tmp_path)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("resnet18", "cayley"),
        pytest.param("mobilenet_v2", "aol", marks=pytest.mark.slow),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("resnet50", "aoc"), ("densenet121", "cayley"), ("vgg16", "aol"))
        ),
    ],
)
def test_torchvision_model_reloads_in_another_process(name: str, backend: str, other_process, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reloads(torchvision.models.get_model(name, weights=None, num_classes=1), backend, other_process, tmp_path)
