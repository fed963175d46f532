"""A filter learns to undo attacks; the command says what it undid."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import memory_dataset, small_network
from torch import Tensor
from typer.testing import CliRunner, Result

from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.base import Attack
from iqa_armor.attacks.learned import UAP
from iqa_armor.attacks.pgd import PGD
from iqa_armor.cli import app
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.base import read_purifier
from iqa_armor.defenses.defended import Purified
from iqa_armor.defenses.purifiers.fcn import load_fcn
from iqa_armor.errors import ArmorError, DataError, RecipeError, UsageError
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.pipeline.train import build_threats, train_purifier
from iqa_armor.progress import silent
from iqa_armor.training.filter_settings import FilterSettings, PurifierSettings
from iqa_armor.training.images import TrainingImages, load_training_images
from iqa_armor.training.purifier import fit_attacks, fit_filter, make_pairs

SPEED = PurifierSettings(epochs=4, learning_rate=5e-3)
CPU = RunOptions(device=torch.device("cpu"))


def prepared(model: QualityModel, dataset: Dataset) -> TrainingImages:
    return load_training_images(dataset.training(), model, silent)


@pytest.fixture(scope="module")
def smooth() -> Dataset:
    """Return images that differ from attacked ones: each a ramp of colors, scored by its brightness."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(24, 3, 2, 2, generator=generator)
    images = torch.nn.functional.interpolate(corners, size=(32, 40), mode="bilinear", align_corners=True)
    pixels = (255 * images).round().to(torch.uint8)
    dataset = memory_dataset(training=24, test=4)
    whole = replace(dataset.splits["training"], read=lambda index: pixels[index])
    return Dataset("ramps", {**dataset.splits, "training": whole})


def test_every_image_is_attacked_once_within_its_budget(make_model: Callable[..., QualityModel]) -> None:
    model, dataset = make_model(), memory_dataset(training=10, test=2)
    images = prepared(model, dataset).fitted
    attacks = [PGD(epsilon=value / 255, steps=6) for value in (2, 6)]
    pairs = make_pairs(model, images, attacks, batch_size=2, seed=3)
    clean = torch.stack([image for image, _, _ in images])
    distances = (pairs.attacked.float() - clean).abs().amax((1, 2, 3)) * 255
    assert pairs.attacked.shape == clean.shape
    assert torch.all((distances > 1) & (distances < 6.1))
    assert abs(int((distances < 2.1).sum()) - len(images) // 2) <= 1
    with torch.no_grad():
        assert (model(pairs.attacked.float()) > model(clean)).float().mean() > 0.9
    again = make_pairs(model, images, attacks, batch_size=2, seed=3)
    assert torch.equal(again.attacked, pairs.attacked)


def test_fitted_attacks_are_fitted_once(make_model: Callable[..., QualityModel]) -> None:
    model, dataset = make_model(), memory_dataset(training=6, test=2)
    images = prepared(model, dataset).fitted
    ready = fit_attacks(model, [PGD(), replace(UAP(), passes=1)], images, batch_size=2, seed=0)
    assert isinstance(ready[0], PGD)
    assert not isinstance(ready[1], UAP)


def test_a_filter_brings_attacked_images_back(make_model: Callable[..., QualityModel], smooth: Dataset) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = train_purifier(model, smooth, SPEED.model_copy(update={"epochs": 8}), options=CPU)
    undone = result.undone
    assert undone["psnr_after"] > undone["psnr_before"] + 1
    assert undone["gain_after"] < 0.8 * undone["gain_before"]
    assert undone["quality_after"] > undone["quality_before"]
    assert result.fitted.epochs[0].psnr == pytest.approx(undone["psnr_before"])
    assert result.fitted.epochs[result.fitted.best].psnr == pytest.approx(undone["psnr_after"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_depends_on_its_seed_only(make_model: Callable[..., QualityModel], smooth: Dataset) -> None:
    few = Dataset("few", {"training": smooth.training().limit(6)})
    attacks: list[Attack] = [PGD(steps=1, epsilon=value / 255, step_size=value / 255) for value in (2, 8)]

    def weights(settings: FilterSettings) -> Tensor:
        images = prepared(make_model(), few)
        return fit_filter(make_model(), images, attacks, settings=settings).network.layers[0].weight

    quick = SPEED.model_copy(update={"epochs": 3})
    assert torch.equal(weights(quick), weights(quick))
    assert not torch.equal(weights(quick), weights(quick.model_copy(update={"seed": 1})))
    assert not torch.equal(weights(quick), weights(quick.model_copy(update={"fresh": True})))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_training_that_was_stopped_goes_on_bit_for_bit(
    fresh: bool, make_model: Callable[..., QualityModel], smooth: Dataset, tmp_path: Path
) -> None:
    few = Dataset("few", {"training": smooth.training().limit(6)})
    asked = SPEED.model_copy(update={"epochs": 3, "fresh": fresh, "attacks": ("pgd1",)})
    whole = train_purifier(make_model(), few, asked, options=CPU).fitted
    how = replace(CPU, checkpoint=tmp_path / "resume.pt")

    def stop(task: str, done: int, total: int, detail: str = "") -> None:
        if (task, done) == ("epochs", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_purifier(make_model(), few, asked, options=replace(how, progress=stop))
    begun: list[int] = []
    on = replace(how, resume=True, progress=lambda task, done, *_: begun.append(done) if task == "epochs" else None)
    resumed = train_purifier(make_model(), few, asked, options=on).fitted
    assert begun == [2, 3]
    assert [epoch.loss for epoch in resumed.epochs[1:]] == [epoch.loss for epoch in whole.epochs[1:]]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value)
    tasks: set[str] = set()
    on = replace(on, progress=lambda task, *_: tasks.add(task))
    with pytest.raises(RecipeError, match="settings differ"):
        train_purifier(make_model(), few, asked.model_copy(update={"epochs": 4}), options=on)
    assert "attacking" not in tasks, "a state of another run is refused before attacks are run"


def test_trackers_are_told_the_epochs(make_model: Callable[..., QualityModel], smooth: Dataset, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    few = Dataset("few", {"training": smooth.training().limit(6)})
    asked = SPEED.model_copy(update={"epochs": 2, "attacks": ("pgd1",)})
    told = train_purifier(make_model(), few, asked, options=replace(CPU, log_to=f"tensorboard:{tmp_path}")).fitted
    (events,) = (path for path in tmp_path.rglob("events.*") if path.parent.name == "iqa-armor")
    found = accumulator.EventAccumulator(str(events.parent)).Reload()
    assert {"loss", "held_out", "psnr", "seconds"} <= set(found.Tags()["scalars"])
    decibels = [(epoch.number, pytest.approx(epoch.psnr, rel=1e-5)) for epoch in told.epochs]
    assert [(each.step, each.value) for each in found.Scalars("psnr")] == decibels
    assert [each.step for each in found.Scalars("loss")] == [1, 2]  # the start has none


def test_fresh_pairs_are_made_in_every_epoch(make_model: Callable[..., QualityModel], smooth: Dataset) -> None:
    counted: list[int] = []

    def count(task: str, done: int, total: int, detail: str = "") -> None:
        if task == "attacking" and done == total:
            counted.append(total)

    images = prepared(make_model(), Dataset("few", {"training": smooth.training().limit(6)}))
    for fresh, rounds in ((False, 2), (True, 4)):
        counted.clear()
        settings = SPEED.model_copy(update={"epochs": 3, "fresh": fresh})
        fit_filter(make_model(), images, [PGD(steps=1)], settings=settings, progress=count)
        assert len(counted) == rounds


def test_the_file_defends_and_says_where_it_comes_from(
    make_model: Callable[..., QualityModel], smooth: Dataset, tmp_path: Path
) -> None:
    result = train_purifier(
        make_model(), smooth, SPEED.model_copy(update={"attacks": ("pgd1",), "epsilons": (4 / 255,)}), options=CPU
    )
    path = tmp_path / "fcn.safetensors"
    result.save(path)
    purifier, images = read_purifier(f"fcn:path={path}"), torch.rand(2, 3, 32, 40)
    torch.testing.assert_close(purifier(images, torch.Generator()), result.fitted.network(images))
    assert Purified(make_model(), {"fcn": purifier})(images).shape == (2,)
    provenance = load_fcn(path)[1]
    assert provenance["attacks"] == {"words": ["pgd1"], "epsilons": [4.0], "direction": "up"}
    assert provenance["best_epoch"] == result.fitted.best
    assert provenance["data"]["spec"] == "ramps"


def test_threats_are_every_attack_at_every_budget_once() -> None:
    settings = PurifierSettings(attacks=("pgd8", "stadv"), epsilons="2,4", direction="both")
    assert set(build_threats(settings)) == {
        *(PGD(steps=8, epsilon=value / 255, direction=sign) for value in (2, 4) for sign in (1, -1)),
        *(replace(ATTACKS.read("stadv"), direction=sign) for sign in (1, -1)),  # type: ignore[type-var]
    }
    with pytest.raises(UsageError, match="budgets lie above 0 and at most at 255"):
        PurifierSettings(epsilons=(0.0,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.0}, "learning_rate: .*greater than 0, got 0.0"),
        ({"epochs": 0}, "greater than or equal to 1, got 0"),
        ({"batch_size": 0}, "greater than or equal to 1, got 0"),
    ],
)
def test_settings_have_bounds(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        FilterSettings(**changes)


def test_images_must_be_alike_and_large_enough(smooth: Dataset) -> None:
    small = QualityModel(small_network(), Preprocessing(size=(8, 40))).eval()
    with pytest.raises(DataError, match="at least 11x11 pixels; give a larger --input-size"):
        train_purifier(small, smooth, SPEED, options=CPU)
    own = QualityModel(small_network(), Preprocessing(size=None)).eval()
    pixels = torch.zeros(2, 3, 32, 40, dtype=torch.uint8)
    mixed = replace(smooth.training(), read=lambda index: pixels[index % 2][..., : 32 + 8 * (index % 2)])
    with pytest.raises(DataError, match="differ in size"):
        fit_filter(own, prepared(own, Dataset("mixed", {"training": mixed})), [PGD()], settings=SPEED)


def test_a_diverging_loss_is_an_error(make_model: Callable[..., QualityModel], smooth: Dataset) -> None:
    class Spoils(PGD):
        def __call__(self, score: Any, images: Tensor, generator: torch.Generator) -> Tensor:
            return torch.full_like(images, float("nan"))

    with pytest.raises(ArmorError, match="not finite"):
        fit_filter(make_model(), prepared(make_model(), smooth), [Spoils()], settings=SPEED)


@pytest.mark.parametrize("rate", [0.4, 1.0])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loss_that_ran_away_but_stays_finite_is_an_error(
    make_model: Callable[..., QualityModel], smooth: Dataset, rate: float, epochs: int
) -> None:
    steps = SPEED.model_copy(update={"learning_rate": rate, "epochs": epochs})
    with pytest.raises(ArmorError, match=r"ran away.*a filter that does nothing has 0\.0003.*--learning-rate"):
        fit_filter(make_model(), prepared(make_model(), smooth), [PGD()], settings=steps)


# The command


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


@pytest.fixture
def base(image_folder: Path, tmp_path: Path) -> tuple[Path, str]:
    spec, model = f"csv:{image_folder / 'labels.csv'}", tmp_path / "base.safetensors"
    arch = f"{Path(__file__).parent / 'conftest.py'}:small_network"
    done = run("train", arch, "-o", model, "--epochs", 1, "--data", spec, "--input-size", "32x40", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    return model, spec


def test_the_command_trains_shows_and_writes(base: tuple[Path, str], tmp_path: Path) -> None:
    model, spec = base
    output = tmp_path / "fcn.safetensors"
    words = ("train-purifier", model, "-o", output, "--data", spec, "--epochs", 2, "--device", "cpu", "--limit", 12)
    shown = run(*words, "--attack", "pgd1", "--epsilon", "4,8", "--direction", "both")
    assert shown.exit_code == 0, shown.stderr
    for text in ("held-out PSNR", "attacked, filtered", "clean, filtered", "gain score", "wrote"):
        assert text in shown.stdout
    assert read_purifier(f"fcn:path={output}").is_differentiable
    told = run(*words, "--json", "--fresh", "--overwrite")
    assert told.exit_code == 0, told.stderr
    record = json.loads(told.stdout)
    assert record["output"] == str(output)
    assert record["attacks"]["words"] == ["pgd8"]
    assert [epoch["number"] for epoch in record["epochs"]] == [0, 1, 2]
    assert {"psnr_before", "psnr_after", "gain_before", "gain_after"} <= record["held_out"].keys()
    assert record["images_used"]["training"] + record["images_used"]["held_out"] == 12


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--attack", "pdg8"], 2, "unknown attack"),
        (["--epsilon", "0"], 2, "--epsilon: budgets lie above 0"),
        (["--epsilon", "x"], 2, "numbers separated by commas"),
        (["--learning-rate", "2"], 2, "--learning-rate: input should be less than or equal to 1, got 2.0"),
        (["-o", "fcn.pt"], 2, "name it fcn.safetensors"),
        (["--data", "csv:nothing.csv"], 5, "nothing.csv"),
    ],
)
def test_the_command_refuses(words: list[str], code: int, said: str, base: tuple[Path, str]) -> None:
    refused = run("train-purifier", base[0], "--data", base[1], "--device", "cpu", *words)
    assert refused.exit_code == code, refused.output
    assert said in " ".join(refused.output.split())
    assert "Traceback" not in refused.output


def test_a_missing_model_is_named() -> None:
    refused = run("train-purifier", "nothing.safetensors", "--data", "synthetic", "--device", "cpu")
    assert refused.exit_code == 3
    assert "there is no model file" in refused.stderr
