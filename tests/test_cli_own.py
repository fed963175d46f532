"""A user's own attack, purifier, dataset, criterion and loss, from a file, through the flags of the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCH, small_network
from typer.testing import CliRunner

from iqa_armor.cli import app

OWN = """
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqa_armor.data.base import Dataset, ImageSet


@dataclass(frozen=True)
class Brighten:
    norm: ClassVar[str] = "linf"
    epsilon: float = 4 / 255
    direction: int = 1

    def __call__(self, score, images, generator):
        return (images + self.direction * self.epsilon).clamp(0, 1)


@dataclass(frozen=True)
class Dim:
    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = False
    share: float = 0.5

    def __call__(self, images, generator):
        return self.share * images


def grays(spec, location):
    count = int(location)
    names = tuple(f"{index}.png" for index in range(count))
    read = lambda index: torch.full((3, 32, 40), 40 + 5 * index, dtype=torch.uint8)
    whole = ImageSet(names, read, torch.arange(count, dtype=torch.float32))
    return Dataset(spec, {"training": whole.select(range(count // 2)), "test": whole.select(range(count // 2, count))})


def absolute(scores, labels):
    return (scores - labels).abs().mean()


def last_first(group, evidence):
    return torch.arange(group.width, 0, -1, dtype=torch.float32)
"""


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(*arguments: object) -> Any:
    done = run(*arguments, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN + ARCH)
    return path


@pytest.fixture
def model(tmp_path: Path, own: Path) -> list[object]:
    torch.save(small_network().state_dict(), tmp_path / "base.pt")
    return [tmp_path / "base.pt", "--arch", f"{own}:make"]


def test_evaluate_runs_and_reports_own_attack_purifier_and_dataset(model: list[object], own: Path) -> None:
    spec, attack, purifier = f"{own}:grays:24", f"{own}:Brighten", f"{own}:Dim:share=0.25"
    outcome = told(
        *("evaluate", *model, "--data", spec, "--attack", attack, "--purify", purifier),
        *("--threat", "adaptive", "--epsilon", "2,4"),
    )
    assert [entry["spec"] for entry in outcome["data"]] == [spec]
    assert list(outcome["settings"]["attacks"]) == [attack]
    assert outcome["settings"]["attacks"][attack]["type"] == "Brighten"
    plain, purified = outcome["models"]
    assert purifier in purified["name"]
    found = plain["attacks"][attack]["abs_gain"], purified["attacks"][attack]["abs_gain"]
    assert all(set(gains) >= {"2", "4"} for gains in found)
    assert found[0] != found[1]


def test_attack_writes_images_of_an_own_attack(
    model: list[object], own: Path, image_folder: Path, tmp_path: Path
) -> None:
    word = f"{own}:Brighten:epsilon=2"
    listed = told("attack", *model, image_folder / "000.png", "-o", tmp_path / "out", "--attack", word)["images"]
    assert [entry["attack"] for entry in listed] == [word]
    assert listed[0]["linf"] == pytest.approx(2, abs=0.51)
    with (tmp_path / "out" / "attacks.csv").open(newline="") as file:
        assert [row["attack"] for row in csv.DictReader(file)] == [word]


def test_score_is_behind_an_own_purifier(model: list[object], own: Path, image_folder: Path) -> None:
    def score(*options: object) -> float:
        return float(told("score", *model, image_folder / "000.png", *options)["images"][0]["score"])

    whole = score("--purify", f"{own}:Dim:share=1.0")
    assert whole == pytest.approx(score(), rel=1e-4, abs=1e-5)
    assert score("--purify", f"{own}:Dim") != pytest.approx(whole, rel=1e-3)


def test_harden_prunes_and_fits_by_what_a_user_wrote(model: list[object], own: Path, tmp_path: Path) -> None:
    loss, criterion, spec = f"{own}:absolute", f"{own}:last_first", f"{own}:grays:24"
    output = tmp_path / "new" / "out.safetensors"
    words = ("--data", spec, "--epochs", 1, "--loss", loss, "--criterion", criterion, "--prune", 0.2)
    record = told("harden", *model, *words, "-o", output)
    assert (record["recipe"]["loss"], record["recipe"]["criterion"]) == (loss, criterion)
    assert record["data"]["spec"] == spec
    assert output.is_file()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--attack", "OWN:Nothing"], 2, "has no attack 'Nothing'"),
        (["--attack", "OWN:absolute"], 2, "is no attack"),
        (["--attack", "absent.py:Brighten"], 2, "there is no file"),
        (["--purify", "OWN:absolute"], 2, "is no purifier"),
        (["--data", "OWN:absolute:24"], 5, "OWN:absolute:24"),
    ],
)
def test_what_is_not_what_it_should_be_is_refused(
    words: list[str], code: int, message: str, model: list[object], own: Path
) -> None:
    done = run("evaluate", *model, "--data", f"{own}:grays:8", *(word.replace("OWN", str(own)) for word in words))
    assert done.exit_code == code, (done.stdout, done.stderr)
    assert message.replace("OWN", str(own)) in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
