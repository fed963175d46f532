"""Every command gives the figures that were recorded of one small network at a fixed seed.

A change that means to change them records them anew, with `python tests/test_same_figures.py`, and says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import small_network, write_images
from typer.testing import CliRunner

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.cli import app
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline import demo

RECORD = Path(__file__).parent / "data" / "figures.json"
Figures = dict[str, dict[str, float]]
DATA = "--data csv:images/labels.csv"
TRAINING = f"{DATA} --epochs 2 --batch-size 8 --learning-rate"
COMMANDS = {
    "inspect": "inspect base.safetensors --input-size 32x40",
    "train": f"train base.safetensors -o trained.safetensors {TRAINING} 5e-3",
    "harden": f"harden trained.safetensors -o hard.safetensors {TRAINING} 5e-3",
    "harden, a defense": f"harden trained.safetensors -o wide.safetensors {TRAINING} 1e-3 --backend aol"
    " --criterion taylor --prune 0.3 --defense nt --views 2",
    "evaluate": f"evaluate hard.safetensors wide.safetensors --baseline trained.safetensors {DATA} --epsilon 2,4"
    " --attack pgd1 --attack pgd8 --attack square:queries=20 --attack uap:passes=1",
    "evaluate, purified": f"evaluate hard.safetensors {DATA} --epsilon 4 --attack pgd8 --limit 2 --eot 2"
    " --purify rotate:random=yes,degrees=30",
    "score": "score hard.safetensors images --scale percentile --scale-data csv:images/labels.csv",
    "attack": "attack hard.safetensors images/000.png images/004.png -o attacked --attack apgd:steps=5",
    "certify": f"certify hard.safetensors {DATA} --limit 3 --samples 100",
    "certify, features": f"certify hard.safetensors {DATA} --limit 2 --samples 100 --method fs",
    "bench": "bench base.safetensors hard.safetensors --repeats 1 --batch 1 --no-memory",
    "export": "export hard.safetensors -o hard.pt2",
    "train-purifier": f"train-purifier hard.safetensors -o fcn.safetensors {DATA} --epochs 1",
    "demo": "demo -o demo --recipe demo.toml",
}
# Times, errors of rounding, and sizes of files that name the files a graph is from.
UNSTEADY = {"first_call", "latency", "throughput", "training_step", "timing", "file_bytes", "bytes"} | {
    *("seconds", "call_seconds", "seconds_plain", "seconds_smoothed", "seconds_certified"),
    *("difference", "proof", "largest_error", "share_of_range"),
}
# What is told elsewhere too.
TWICE = {"datasets", "settings", "recipe"}
# What processors and versions of torch round differently, signs of gradients turn into small changes of an attack;
# logarithms of small gains and training losses amplify it.
TOLERANCES = ((re.compile("r_score|loss"), 1e-2), (re.compile("/attacks/"), 1e-3))


def figures(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Give the numbers of a JSON object with their paths."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in UNSTEADY | TWICE:
                yield from figures(part, f"{path}/{key}")
    elif isinstance(value, int | float):
        yield path, float(f"{value:.7g}")


def measured(folder: Path) -> Figures:
    """Run the commands one after another in an empty folder."""
    base = QualityModel(small_network(), Preprocessing(size=(32, 40)), name="base")
    save_artifact(base, folder / "base.safetensors")
    write_images(folder / "images", count=24)
    (folder / "demo.toml").write_text("epochs = 1\nbatch_size = 4\n")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(demo, "DEMO_DATA", "synthetic:scenes=3,seed=2026")
        quick = {"limit": 2, "ranking_epsilons": (4 / 255,)}
        patch.setattr(demo, "SETTINGS", demo.SETTINGS.model_copy(update=quick))
        for name, line in COMMANDS.items():
            done = CliRunner().invoke(app, [*line.split(), "--json"])
            assert done.exit_code == 0, (line, done.stderr, done.exception)
            found[name] = dict(figures(json.loads(done.stdout)))
    return found


def tolerance(path: str) -> dict[str, float]:
    relative = next((least for pattern, least in TOLERANCES if pattern.search(path)), 1e-4)
    return {"rel": relative, "abs": min(relative, 1e-3)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    return measured(tmp_path_factory.mktemp("figures"))


@pytest.mark.parametrize("name", COMMANDS)
def test_figures_are_those_recorded(name: str, found: Figures) -> None:
    recorded = json.loads(RECORD.read_text())[name]
    expected = {path: pytest.approx(value, **tolerance(path)) for path, value in recorded.items()}
    assert {path: found[name].get(path) for path in recorded} == expected


if __name__ == "__main__":
    with TemporaryDirectory() as empty:
        RECORD.write_text(json.dumps(measured(Path(empty)), indent=0) + "\n")
