"""What a command would take, without doing it; what harden says of its result."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ARCH, write_images
from typer.testing import CliRunner

import iqa_armor
from iqa_armor.cli import app
from iqa_armor.pipeline.forecast import steps_of
from iqa_armor.pipeline.hardened import Hardened
from iqa_armor.pipeline.settings import Opening
from iqa_armor.recipe import Recipe
from iqa_armor.training.history import Epoch, FitHistory

MODEL = Path(iqa_armor.__file__).parent / "assets" / "demo.safetensors"
LONG = {
    "train": ["ARCH", "--data", "SPEC", "-o", "OUT.safetensors"],
    "harden": ["MODEL", "--data", "SPEC", "-o", "OUT.safetensors"],
    "evaluate": ["MODEL", "--data", "SPEC", "-o", "OUT", "--report", "OUT.html"],
    "certify": ["MODEL", "--data", "SPEC", "--report", "OUT.html"],
    "attack": ["MODEL", "IMAGES", "-o", "OUT"],
    "train-purifier": ["MODEL", "--data", "SPEC", "-o", "OUT.safetensors"],
    "bench": ["MODEL", "--repeats", "2"],
    "export": ["MODEL", "-o", "OUT.pt2", "--images", "12"],
}


def run(command: str, folder: Path, *more: str):
    places = {"MODEL": MODEL, "SPEC": f"csv:{folder}/labels.csv", "IMAGES": folder, "OUT": folder.parent / "out"}
    words = [command, *LONG[command], *more, *(["--device", "cpu"] if command != "export" else [])]
    for name, place in {**places, "ARCH": f"{folder.parent}/mine.py:make"}.items():
        words = [word.replace(name, str(place)) for word in words]
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("command", LONG)
def test_a_dry_run_says_what_it_would_take_and_writes_nothing(command: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ARCH)
    folder = write_images(tmp_path / "images", count=12)
    before = sorted(tmp_path.iterdir())
    done = run(command, folder, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["dry_run"]
    assert told["seconds"] > 0
    (first, *_) = told["forecast"]
    assert first["parameters"] > 1000
    assert first["flops"] > 1000
    assert first["images"] in (3, 9, 12, 16)
    assert sorted(path for path in tmp_path.iterdir() if path.name != "__pycache__") == before


def test_more_work_takes_longer() -> None:
    from iqa_armor.attacks import ATTACKS

    assert [steps_of(ATTACKS.read(word)) for word in ("pgd1", "pgd8", "square:queries=20")] == [1, 8, 20]


def test_harden_names_the_next_command_whole_and_the_cost_of_this_network(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", count=30)
    done = run("harden", folder, "--epochs", "1")
    assert done.exit_code == 0, done.stderr
    assert "times as long" in done.stdout
    words = shlex.split(next(line for line in done.stdout.splitlines() if line.startswith("next: "))[6:])
    assert words[:2] == ["iqa-armor", "evaluate"]
    assert CliRunner().invoke(app, [*words[1:], "--dry-run"]).exit_code == 0
    assert "times the original's" in (tmp_path / "out.card.md").read_text()


def test_what_was_said_of_a_foreign_file_is_said_again() -> None:
    opening = Opening(arch="resnet18", input_size=(64, 96), mean=(0.5, 0.5, 0.5), trust_pickle=True)
    assert opening.words() == [
        *("--arch", "resnet18", "--input-size", "64x96", "--mean", "0.5,0.5,0.5", "--trust-pickle")
    ]
    assert Opening().words() == []


@pytest.mark.parametrize(("after", "warned"), [(0.5, True), (0.895, False), (0.95, False)])
def test_a_result_that_ranks_worse_is_remarked_on(after: float, warned: bool, make_model) -> None:
    fit = FitHistory((Epoch(1, 0.1, after, after, 1.0),), 1)
    found = Hardened(make_model(), Recipe(), (), None, fit, {"original": 0.9, "result": after})
    assert bool(found.warnings) == warned
    assert found.as_plain()["warnings"] == found.warnings
    if warned:
        assert "SROCC 0.500 against 0.900" in found.warnings[0]
        assert "or a smaller --prune may help" in found.warnings[0]
        unpruned = replace(found, recipe=Recipe(prune=0.0))
        assert unpruned.warnings[0].endswith("more --epochs or another --learning-rate may help")
