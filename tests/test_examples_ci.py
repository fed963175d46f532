"""What examples/ offers to shells, CI jobs, git hooks and containers does what it says, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import write_images

import iqa_armor
from iqa_armor import save_model
from iqa_armor.models.base import QualityModel, ScoreScale

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
FEW = "--limit 3 --attack pgd8 --epsilon 4 --device cpu"
COMMAND = f'#!/bin/sh\nexec "{sys.executable}" -m iqa_armor "$@"\n'


@pytest.fixture
def place(tmp_path: Path, make_model: Callable[..., QualityModel]) -> Path:
    """Return a folder with images, their labels and a model, where the command is found."""
    write_images(tmp_path / "images", count=24)
    rows = (tmp_path / "images" / "labels.csv").read_text().replace("\n0", "\nimages/0")
    (tmp_path / "labels.csv").write_text(rows)
    save_model(make_model(scale=ScoreScale(-1, 1)), tmp_path / "base.safetensors")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "iqa-armor").write_text(COMMAND)
    (tmp_path / "bin" / "iqa-armor").chmod(0o755)
    return tmp_path


def shell(place: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    known = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(place)}
    return subprocess.run(
        ["bash", *words], cwd=place, env=os.environ | known | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(("most", "code"), [("9", 0), ("-9", 10)])
def test_the_shell_pipeline_exports_only_what_holds(place: Path, most: str, code: int) -> None:
    (place / "network.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))\n"
    )
    few = {"TRAIN": "--epochs 1 --input-size 32x40", "HARDEN": "--epochs 1", "EVALUATE": FEW}
    variables = {**few, "MOST_SROCC_DROP": most, "MOST_GAIN_RATIO": "1e9"}
    done = shell(place, str(EXAMPLES / "pipeline.sh"), "labels.csv", "out", "network.py:make", **variables)
    assert done.returncode == code, done.stderr
    assert (place / "out" / "report.html").exists()
    assert (place / "out" / "hardened.pt2").exists() == (code == 0)
    if code == 0:
        assert len(json.loads((place / "out" / "scores.json").read_text())["images"]) == 24


@pytest.mark.slow
@pytest.mark.parametrize(("least", "code"), [("-1", 0), ("2", 10)])
def test_the_action_fails_where_a_requirement_does_not_hold(place: Path, least: str, code: int) -> None:
    yaml = pytest.importorskip("yaml")
    action = yaml.safe_load((EXAMPLES / "github-action" / "action.yml").read_text())
    workflow = yaml.safe_load((EXAMPLES / "github-action" / "workflow.yml").read_text())
    given = workflow["jobs"]["gate"]["steps"][1]["with"]
    assert set(given) <= set(action["inputs"])
    (gate,) = (step for step in action["runs"]["steps"] if step.get("name") == "gate")
    inputs = {name: each.get("default") for name, each in action["inputs"].items()}
    inputs |= {
        "model": "base.safetensors",
        "data": "csv:labels.csv",
        "options": FEW,
        "require": f"srocc >= {least}\n\n",
    }
    assert all(re.fullmatch(r"\$\{\{ inputs\.\w+ \}\}", value) for value in gate["env"].values())
    variables = {name: inputs[value[11:-3]] for name, value in gate["env"].items()}
    done = shell(place, "-c", gate["run"], **variables)
    assert done.returncode == code, done.stderr
    assert json.loads((place / "iqa-armor" / "results.json").read_text())["models"]


def git(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return shell(place, "-c", 'git -c user.name=a -c user.email=a@b "$@"', "git", *words)


@pytest.mark.slow
def test_the_hook_lets_only_models_pass_that_are_no_worse(place: Path, make_model: Callable[..., QualityModel]) -> None:
    assert git(place, "init", "-q").returncode == 0
    shutil.copy(EXAMPLES / "pre-commit.sh", place / ".git" / "hooks" / "pre-commit")
    git(place, "add", "base.safetensors")
    assert "iqa-armor.data is not set" in git(place, "commit", "-qm", "first").stderr
    git(place, "config", "iqa-armor.data", "csv:labels.csv")
    git(place, "config", "iqa-armor.options", FEW)
    git(place, "config", "--add", "iqa-armor.require", "srocc_drop <= 0.5")
    assert git(place, "commit", "-qm", "a first model has nothing to replace").returncode == 0
    other = make_model(scale=ScoreScale(-1, 1))
    other.network[-1].weight.data.neg_()  # ranks the other way round
    save_model(other, place / "base.safetensors")
    git(place, "add", "base.safetensors")
    git(place, "config", "iqa-armor.require", "srocc_drop <= -3")
    refused = git(place, "commit", "-qm", "worse")
    assert refused.returncode == 1
    assert "srocc_drop <= -3" in refused.stderr
    git(place, "config", "iqa-armor.require", "srocc_drop <= 3")
    assert git(place, "commit", "-qm", "no worse than is allowed").returncode == 0


def test_the_container_is_given_all_that_is_installed() -> None:
    text = (EXAMPLES / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for word in line.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "iqa_armor", project["readme"], *project["license-files"]} == copied
    assert all((ROOT / name).exists() for name in copied)
    assert set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.M)) == {"source", "cuda", "cpu"}


def test_the_citation_has_the_version_of_the_package() -> None:
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {iqa_armor.__version__}\n" in cited
    yaml = pytest.importorskip("yaml")
    assert {"cff-version", "message", "title", "authors"} <= set(yaml.safe_load(cited))
