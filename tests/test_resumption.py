"""A resumed run knows what it was made from, down to the pixels, and refuses a state that is damaged."""

from __future__ import annotations

import random
import shutil
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import memory_dataset, write_images
from PIL import Image, ImageOps
from typer.testing import CliRunner

from iqa_armor.cli import app
from iqa_armor.data import prepared
from iqa_armor.data.base import Dataset
from iqa_armor.data.specs import open_dataset
from iqa_armor.errors import RecipeError
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.pipeline.harden import harden
from iqa_armor.pipeline.train import train
from iqa_armor.recipe import Recipe, Training
from iqa_armor.training.checkpoint import Checkpoint

TRAINING, RECIPE = Training(epochs=1), Recipe(epochs=1, prune=0, position="none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", count=24)


def csv_data(folder: Path) -> Dataset:
    return open_dataset(f"csv:{folder / 'labels.csv'}")


def invert(folder: Path, names: list[str]) -> None:
    for name in names:
        with Image.open(folder / name) as image:
            ImageOps.invert(image).save(folder / name)


def resumable(tmp_path: Path, *, resume: bool = False) -> RunOptions:
    return RunOptions(checkpoint=tmp_path / "resume.pt", resume=resume)


def training_names(folder: Path) -> list[str]:
    return list(csv_data(folder).training().names)


@pytest.mark.parametrize(
    ("limit", "many"),
    [(0, False), (2**31, False), (2**31, True)],
    ids=["one on demand", "one in memory", "all in memory"],
)
@pytest.mark.parametrize(("job", "settings"), [(train, TRAINING), (harden, RECIPE)], ids=["train", "harden"])
def test_changed_pixels_under_the_same_names_are_refused(
    job: Callable[..., Any],
    settings: Any,
    limit: int,
    many: bool,
    make_model,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defaults = {**prepared.load_prepared.__kwdefaults__, "memory_limit": limit}
    monkeypatch.setattr(prepared.load_prepared, "__kwdefaults__", defaults)
    monkeypatch.setattr(prepared, "MOST_WORKERS", 1)
    job(make_model(), csv_data(folder), settings, options=resumable(tmp_path))
    job(make_model(), csv_data(folder), settings, options=resumable(tmp_path, resume=True))
    names = training_names(folder)
    invert(folder, names if many else names[-1:])
    with pytest.raises(RecipeError, match=r"other data.*\(pixels differ\).*without --resume"):
        job(make_model(), csv_data(folder), settings, options=resumable(tmp_path, resume=True))


def test_changed_images_without_scores_are_refused(make_model, folder: Path, tmp_path: Path) -> None:
    more, recipe = write_images(tmp_path / "more", count=4), RECIPE.model_copy(update={"defense": "teacher"})

    def run(resume: bool) -> None:
        data, others = csv_data(folder), open_dataset(f"folder:{more}")
        harden(make_model(), data, recipe, options=resumable(tmp_path, resume=resume), unlabelled=others)

    run(False)
    run(True)
    invert(more, ["002.png"])
    with pytest.raises(RecipeError, match="pixels differ"):
        run(True)


def test_images_that_are_no_files_are_told_apart_too(make_model, tmp_path: Path) -> None:
    train(make_model(), memory_dataset(24, 4), TRAINING, options=resumable(tmp_path))
    data = memory_dataset(24, 4)
    darker = replace(data.splits["training"], read=lambda index: data.splits["training"].read(index) // 2)
    changed = Dataset(data.spec, {**data.splits, "training": darker})
    with pytest.raises(RecipeError, match="pixels differ"):
        train(make_model(), changed, TRAINING, options=resumable(tmp_path, resume=True))


def test_images_outside_the_training_split_and_their_times_do_not_matter(
    make_model, folder: Path, tmp_path: Path
) -> None:
    train(make_model(), csv_data(folder), TRAINING, options=resumable(tmp_path))
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved, copy_function=shutil.copyfile)
    invert(moved, list(csv_data(moved).splits["test"].names))
    train(make_model(), csv_data(moved), TRAINING, options=resumable(tmp_path, resume=True))


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"settings": Training(epochs=1, seed=3)}, "training"), ({"seed": 4}, "weights"), ({"labels": 2.0}, "labels")],
    ids=["settings", "model", "scores"],
)
def test_what_else_has_changed_is_named(changes: dict[str, Any], named: str, make_model, tmp_path: Path) -> None:
    data = memory_dataset(24, 4)
    train(make_model(), data, TRAINING, options=resumable(tmp_path))
    images = replace(data.splits["training"], mos=data.splits["training"].mos * changes.get("labels", 1))
    data = Dataset(data.spec, {**data.splits, "training": images})
    settings = changes.get("settings", TRAINING)
    with pytest.raises(RecipeError, match=rf"\({named} differ\)"):
        train(make_model(changes.get("seed", 0)), data, settings, options=resumable(tmp_path, resume=True))


def test_a_damaged_state_is_refused_and_never_taken_for_another(tmp_path: Path) -> None:
    checkpoint, drawn = Checkpoint(tmp_path / "resume.pt", {"pixels": "1"}), random.Random(0)
    written = {"model": {"weight": torch.randn(40, 20)}, "epochs": [{"srocc": 0.5}], "random": torch.get_rng_state()}
    checkpoint.write(written)
    content, refusals = checkpoint.path.read_bytes(), []
    for trial in range(400):
        damaged = bytearray(content)
        if trial % 4 == 0:
            del damaged[drawn.randrange(len(content)) :]
        else:
            start = drawn.randrange(len(content))
            damaged[start : start + drawn.choice([1, 1, 16])] = drawn.randbytes(drawn.choice([1, 1, 16]))
        checkpoint.path.write_bytes(damaged)
        try:
            state = checkpoint.read()
        except RecipeError as error:
            refusals.append(str(error))
        else:
            assert torch.equal(state["model"]["weight"], written["model"]["weight"])
            assert state["epochs"] == written["epochs"]
            assert torch.equal(state["random"], written["random"])
    assert len(refusals) > 300
    assert all("without --resume" in said and "\n" not in said for said in refusals)


def test_a_torchscript_archive_is_refused_without_a_warning(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "resume.pt", "f")
    checkpoint.write({"epochs": []})
    with zipfile.ZipFile(checkpoint.path, "a") as archive:
        archive.writestr("resume/constants.pkl", archive.read("resume/data.pkl"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(RecipeError, match="no usable checkpoint"):
            checkpoint.read()
    assert told == []


@pytest.mark.parametrize("part", ["model", "optimizer", "schedule", "epochs", "best", "random"])
@pytest.mark.parametrize("other", [None, 3, [], {}, {"x": torch.zeros(1)}], ids=str)
def test_a_whole_file_of_another_content_is_refused(part: str, other: Any, make_model, tmp_path: Path) -> None:
    data, path = memory_dataset(24, 4), tmp_path / "resume.pt"
    train(make_model(), data, TRAINING, options=resumable(tmp_path))
    state = torch.load(path, weights_only=True)
    torch.save({**state, part: other}, path)
    with pytest.raises(RecipeError, match=r"resume\.pt.*without --resume"):
        train(make_model(), data, TRAINING, options=resumable(tmp_path, resume=True))


def test_the_command_line_refuses_in_one_sentence(folder: Path, tmp_path: Path, monkeypatch) -> None:
    from conftest import ARCH

    (tmp_path / "mine.py").write_text(ARCH)
    monkeypatch.chdir(tmp_path)
    words = ["train", "mine.py:make", "--data", f"csv:{folder}/labels.csv", "--epochs", "1", "-o", "out.safetensors"]
    Path(".out.resume.pt").write_bytes(b"PK\3\4 cut short")
    done = CliRunner().invoke(app, [*words, "--resume"])
    assert done.exit_code == 6, done.output
    assert done.stderr.count("error:") == 1
    assert ".out.resume.pt is no usable checkpoint" in done.stderr
    assert "run without --resume to start afresh" in done.stderr
    assert not Path("out.safetensors").exists()
    assert CliRunner().invoke(app, words).exit_code == 0
