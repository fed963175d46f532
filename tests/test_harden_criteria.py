"""Hardening by criteria that look at scored images, from the library and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import ARCH, memory_dataset, small_network, write_images
from torch import nn
from typer.testing import CliRunner

from iqa_armor.artifact.storage import read_metadata
from iqa_armor.cli import app
from iqa_armor.data.base import Dataset, evenly
from iqa_armor.errors import DataError
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.fitting import is_informed, labelled_batches
from iqa_armor.pipeline.harden import harden, untrained
from iqa_armor.pipeline.hardened import Hardened
from iqa_armor.progress import silent
from iqa_armor.pruning import CRITERIA
from iqa_armor.recipe import Recipe
from iqa_armor.training.images import load_training_images


@pytest.fixture
def run(tmp_path: Path):
    (tmp_path / "mine.py").write_text(ARCH)
    torch.save(small_network().state_dict(), tmp_path / "model.pt")

    def invoke(*options: object, images: int = 40):
        folder = write_images(tmp_path / f"images-{images}", count=images)
        common = ["harden", tmp_path / "model.pt", "--arch", f"{tmp_path / 'mine.py'}:make", "--device", "cpu"]
        arguments = [*common, "--data", f"csv:{folder / 'labels.csv'}", "--epochs", 0, *options]
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def weights(result: Hardened) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in result.model.parameters()]


def test_samples_are_200_spread_images_with_their_scores(make_model) -> None:
    dataset, model = memory_dataset(training=300), make_model()
    images = load_training_images(dataset.training(), model, silent)
    batches, scores = zip(*labelled_batches(images, model), strict=True)
    assert sum(map(len, scores)) == 200
    assert max(map(len, batches)) == 8
    every = torch.cat(scores)
    positions = [images.mos.tolist().index(value) for value in every.tolist()]
    assert positions == evenly(len(images.fitted), 200)
    first = model.normalize(images.fitted[positions[1]][0])
    torch.testing.assert_close(torch.cat(batches)[1], first)


@pytest.mark.parametrize("criterion", ["pls", "distilled-pls", "hsic", "taylor", "random"])
def test_hardening_is_the_same_each_time(make_model, dataset: Dataset, criterion: str) -> None:
    recipe = Recipe.read({"criterion": criterion, "epochs": 0, "prune": 0.2})
    one, two = (harden(make_model(), dataset, recipe) for _ in range(2))
    assert one.pruned is not None
    assert one.pruned.samples == (144 if CRITERIA[criterion].takes_samples else 0)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


def test_another_seed_removes_other_channels_at_random(make_model, dataset: Dataset) -> None:
    values = {"criterion": "random", "epochs": 0, "prune": 0.5, "position": "none"}
    one, two = (harden(make_model(), dataset, Recipe.read({**values, "seed": seed})) for seed in (0, 1))
    assert not all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


def test_direction_of_the_model_does_not_matter(make_model, dataset: Dataset) -> None:
    rising = make_model()
    falling = QualityModel(rising.network, rising.preprocessing, higher_is_better=False)
    recipe = Recipe(criterion="pls", epochs=0, prune=0.2, position="none")
    one, two = (harden(model, dataset, recipe) for model in (rising, falling))
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


def test_dry_run_reads_enough_images(make_model) -> None:
    dataset = memory_dataset(training=400)
    result = harden(make_model(), *untrained(dataset, Recipe(criterion="pls")))
    assert result.pruned is not None
    assert result.pruned.samples == 200
    assert result.provenance["data"]["images"]["training"] == 250


def test_too_few_images_are_refused_before_anything_starts(make_model) -> None:
    with pytest.raises(DataError, match=r"--criterion hsic takes at least 10 .* there are 6; .*--criterion taylor"):
        harden(make_model(), memory_dataset(training=8), Recipe(criterion="hsic", epochs=0))
    harden(make_model(), memory_dataset(training=8), Recipe(criterion="hsic", epochs=0, prune=0))


def test_scores_that_are_all_the_same_are_refused(make_model) -> None:
    images = memory_dataset(training=40).training()
    same = Dataset("same", {"training": type(images)(images.names, images.read, torch.full((40,), 3.0))})
    with pytest.raises(DataError, match="compares scores, but all are 3"):
        harden(make_model(), same, Recipe(criterion="pls", epochs=0))


def test_command_line_hardens_by_pls_and_the_file_says_so(run, tmp_path: Path) -> None:
    done = run("--criterion", "pls")
    assert done.exit_code == 0, done.stderr
    assert "by 28 scored training images" in " ".join(done.stdout.split())
    stored = read_metadata(tmp_path / "model-hardened.safetensors")
    assert stored["recipe"]["criterion"] == "pls"
    assert stored["provenance"]["pruned"]["samples"] == 28


def test_command_line_shows_a_dry_run_of_distilled_pls(run) -> None:
    done = run("--criterion", "distilled-pls", "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["recipe"]["criterion"] == "distilled-pls"
    assert outcome["recipe"]["prune_global"] is True
    assert outcome["pruned"]["samples"] == 28


def test_command_line_refuses_distilled_pls_within_layers(run) -> None:
    done = run("--criterion", "distilled-pls", "--prune-local")
    assert done.exit_code == 6
    assert "drop --prune-local" in " ".join(done.stderr.split())


def test_command_line_refuses_too_few_images_with_the_way_out(run) -> None:
    done = run("--criterion", "pls", images=8)
    assert done.exit_code == 5
    assert "--criterion taylor" in " ".join(done.stderr.split())


class Spread(nn.Module):
    """Scores that follow the contrast of images, which their labels do too."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).std(1, keepdim=True)


@pytest.mark.parametrize(("count", "knows"), [(4, False), (6, False), (20, True), (120, True)])
def test_scores_say_something_where_more_than_chance_is_behind_them(count: int, knows: bool, caplog) -> None:
    model = QualityModel(Spread().requires_grad_(False), Preprocessing(size=(32, 40))).eval()
    images = load_training_images(memory_dataset(count, 2).training(), model, silent)
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    assert is_informed(model, images, silent) is knows
    assert ("no more than by chance (SROCC 1.00 on" in caplog.text) is not knows


@pytest.mark.parametrize("count", [7, 20, 60])
def test_scores_of_untrained_networks_say_nothing(count: int, make_model) -> None:
    dataset, found = memory_dataset(count, 2), 0
    for seed in range(20):
        images = load_training_images(dataset.training(), model := make_model(seed), silent)
        order = torch.randperm(len(images.fitted), generator=torch.Generator().manual_seed(seed))
        images.fitted.mos.copy_(images.fitted.mos[order])
        found += is_informed(model, images, silent)
    assert found <= 2
