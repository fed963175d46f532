"""Trackers get what each epoch of a fit gave, and change nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import tracking
from conftest import write_images
from typer.testing import CliRunner

from iqa_armor import load_model, save_model
from iqa_armor.cli import app
from iqa_armor.cli.commands.run import read_steps
from iqa_armor.errors import UsageError
from iqa_armor.models.base import QualityModel, ScoreScale
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.pipeline.steps import Pipeline
from iqa_armor.training.accelerator import trackers


def test_no_trackers_are_none() -> None:
    assert trackers(None) == trackers("") == ([], "runs")


def test_unknown_and_missing_trackers_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no tracker 'tensorbord'; known are aim, .*tensorboard"):
        RunOptions(log_to="tensorbord")
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(UsageError, match="--log-to wandb needs a package that is not installed: pip install wandb"):
        RunOptions(log_to="wandb:here")


def test_epochs_of_harden_go_to_tensorboard(
    tmp_path: Path, make_model: Callable[..., QualityModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    labels = write_images(tmp_path / "images", count=24) / "labels.csv"
    save_model(make_model(scale=ScoreScale(-1, 1)), tmp_path / "m.safetensors", recipe={}, provenance={})
    call = ["harden", "m.safetensors", "--data", f"csv:{labels}", "--device", "cpu", "--epochs", "2", "--json"]
    call += ["--position", "none", "--prune", "0", "--select", "balanced", "--defense", "none"]
    bare = CliRunner().invoke(app, [*call, "-o", "bare.safetensors"])
    done = CliRunner().invoke(app, [*call, "-o", "told.safetensors", "--log-to", "tensorboard:seen"])
    assert (bare.exit_code, done.exit_code) == (0, 0), bare.output + done.output
    epochs = json.loads(done.stdout)["epochs"]
    (events,) = (path for path in (tmp_path / "seen").rglob("events.*") if path.parent.name == "iqa-armor")
    found = accumulator.EventAccumulator(str(events.parent)).Reload()
    assert {"loss", "srocc", "plcc", "seconds", "worst_srocc"} <= set(found.Tags()["scalars"])
    assert [(each.step, each.value) for each in found.Scalars("srocc")] == [
        (epoch["number"], pytest.approx(epoch["srocc"], abs=1e-6)) for epoch in epochs
    ]
    assert [each.step for each in found.Scalars("loss")] == [1, 2]  # the start has none
    weights = [load_model(tmp_path / f"{name}.safetensors").state_dict() for name in ("bare", "told")]
    assert all(weights[0][name].equal(value) for name, value in weights[1].items())
    assert not list(tmp_path.glob("runs*"))


def test_a_folder_that_cannot_be_is_one_sentence(
    tmp_path: Path, make_model: Callable[..., QualityModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    labels = write_images(tmp_path / "images", count=24) / "labels.csv"
    save_model(make_model(scale=ScoreScale(-1, 1)), tmp_path / "m.safetensors", recipe={}, provenance={})
    (tmp_path / "taken").write_text("a file")
    call = [
        "train",
        "m.safetensors",
        "--data",
        f"csv:{labels}",
        "--device",
        "cpu",
        "--epochs",
        "1",
        "-o",
        "t.safetensors",
    ]
    done = CliRunner().invoke(app, [*call, "--log-to", "tensorboard:taken"])
    assert done.exit_code == 1
    assert "--log-to tensorboard:taken cannot be started" in " ".join(done.output.split())
    assert not (tmp_path / "t.safetensors").exists()


def test_what_is_logged_is_no_input_of_a_pipeline(tmp_path: Path) -> None:
    (step,) = read_steps(
        {"harden": {"model": "m.pt", "output": "h.safetensors", "log_to": "tensorboard:runs"}}, "p.toml"
    )
    pipeline = Pipeline([step], folder=tmp_path, state=tmp_path / "state.json")
    before = pipeline.fingerprint(step)
    (tmp_path / "runs").mkdir()  # as the first run does
    assert pipeline.fingerprint(step) == before
