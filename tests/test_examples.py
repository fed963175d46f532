"""The scripts beside the package run, and their tables say what was measured and what is the paper's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import write_images
from typer.testing import CliRunner

from iqa_armor import save_model
from iqa_armor.cli import app
from iqa_armor.models.base import QualityModel, ScoreScale

EXAMPLES = Path(__file__).parents[1] / "examples"


def script(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def model(tmp_path: Path, make_model: Callable[..., QualityModel]) -> Path:
    path = tmp_path / "small.safetensors"
    save_model(make_model(scale=ScoreScale(-1, 1)), path, recipe={}, provenance={})
    return path


@pytest.mark.slow
def test_the_papers_grid_runs_goes_on_and_stands_beside_the_papers_numbers(model: Path, tmp_path: Path) -> None:
    labels = write_images(tmp_path / "images", count=24) / "labels.csv"
    made = tmp_path / "made"
    options = ["--data", f"csv:{labels}", "--cuts", "", "--epochs", 1, "--limit", 4, "--device", "cpu", "-o", made]
    script("reproduce_paper.py", f"small={model}", *options, "--rows", "base,control")
    control = (made / "models" / "small-control.safetensors").stat().st_mtime_ns
    script("reproduce_paper.py", f"small={model}", *options, "--rows", "base,control,Cayley")
    assert (made / "models" / "small-control.safetensors").stat().st_mtime_ns == control
    tables = (made / "tables.md").read_text(encoding="utf-8")
    assert tables.count("| + control |") == 4  # in every table
    assert "| *[RA] + Cayley* | *0.921 / 0.935* | *0.261 / 1.481* | *0.64 / 0.81* |" in tables
    own = next(line for line in tables.splitlines() if line.startswith("| + Cayley |"))
    (result,) = json.loads((made / "rows.json").read_text())
    (entry,) = (row for row in result["rows"] if row["row"] == "Cayley")
    assert f"| {entry['srocc']:.3f} / {entry['plcc']:.3f} |" in own
    assert entry["epoch_seconds"] > 0
    assert f"{entry['difference_to_baseline']['attacks']['pgd8']['abs_gain']['4']['value']:+.3f} [" in own


def test_tables_of_defenses_follow_the_json(model: Path, tmp_path: Path) -> None:
    labels = write_images(tmp_path / "images", count=24) / "labels.csv"
    options = [str(model), "--data", f"csv:{labels}", "--limit", "4", "--device", "cpu", "--json"]
    purifiers = tmp_path / "p.json"
    purifiers.write_text(
        CliRunner()
        .invoke(
            app,
            ["evaluate", *options, "--purify", "flip", "--attack", "pgd1", "--epsilon", "4", "--ranking-epsilon", "1"],
        )
        .stdout
    )
    certificates = tmp_path / "c.json"
    certificates.write_text(CliRunner().invoke(app, ["certify", *options, "--samples", "50"]).stdout)
    shown = script("defense_tables.py", "--purifiers", purifiers, "--certificates", certificates)
    bare, aware, unaware = json.loads(purifiers.read_text())["models"]
    assert (bare["threat"], aware["threat"], unaware["threat"]) == (None, "adaptive", "bare")
    gains = [entry["attacks"]["pgd1"]["abs_gain"]["4"] for entry in (bare, unaware, aware)]
    assert f"| small | {bare['srocc']:.3f} | – | – | {gains[0]:.3f} | {gains[0]:.3f} |" in shown
    assert f"| + flip | {aware['srocc']:.3f} |" in shown
    assert f"| {gains[1]:.3f} | {gains[2]:.3f} |" in shown
    figures = json.loads(certificates.read_text())["models"][0]["methods"]["ms"]
    assert f"| + ms | global | {figures['delta_share']:.3f} | – | 0% |" in shown


@pytest.mark.slow
def test_the_evidence_goes_on_where_it_was_stopped_and_is_drawn(model: Path, tmp_path: Path) -> None:
    labels = write_images(tmp_path / "images", count=24) / "labels.csv"
    options = ["--data", f"csv:{labels}", "--epochs", 1, "--limit", 4, "--device", "cpu", "-o", tmp_path / "made"]
    options += ["--attacks", "pgd1", "--seeds", "0,1"]
    script("evidence.py", model, *options, "--only", "control")
    kept = tmp_path / "made" / "small-control-1.json"
    found, made = json.loads(kept.read_text()), kept.stat().st_mtime_ns
    shown = script("evidence.py", model, *options, "--only", "control,AOL block")
    assert kept.stat().st_mtime_ns == made
    assert shown.count("\n| small") == 3  # the base and both methods
    assert f"{found['pgd1 gain at 4']:.3f}"[:3] in shown
    assert {"SROCC", "worst-case at 0.5", "mean", "pgd1 gain at 1"} < set(found)
    for ending in ("ranking", "budgets"):
        drawn = (tmp_path / "made" / f"small-{ending}.svg").read_text()
        assert "<svg" in drawn
        assert drawn.count('id="line2d') > 3
    hardened = (tmp_path / "made" / "small-AOL-block-0.safetensors").read_bytes()
    assert hardened != (tmp_path / "made" / "small-AOL-block-1.safetensors").read_bytes()
