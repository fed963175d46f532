"""The determinism table of CONTRIBUTING.md: what two runs of one command give, and runs in other batches."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from disturbed import COMMANDS, call, copied, prepare

EXACT = ("train", "harden", "train-purifier", "export", "attack", "csv", "evaluate", "certify")
SLOW = ("export", "csv", "certify", "train-purifier")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("determinism") / "template"
    prepare(folder)
    return folder


def timeless(value: Any) -> Any:
    """Return plain values without times."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if "seconds" not in key and key != "timing"}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def content(file: Path) -> Any:
    """Return what has to be the same: the bytes, without times and without the dates inside archives."""
    if file.suffix == ".csv":
        with file.open(newline="") as opened:
            return timeless(list(csv.DictReader(opened)))
    if file.suffix == ".json":
        return timeless(json.loads(file.read_text()))
    if file.suffix == ".pt2":
        with zipfile.ZipFile(file) as archive:
            parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        # torch numbers the graphs of a process, and names them in its notes on where an operation comes from.
        graph = re.sub(rb"eval_with_key>\.\d+", b"", parts.pop("models/model.json"))
        return {"graph": graph, **{name: part for name, part in parts.items() if "serialization_id" not in name}}
    return file.read_bytes()


def made(name: str, template: Path, folder: Path, *more: str) -> dict[str, Any]:
    with copied(template, folder):
        done = call(name, *more)
        assert done.exit_code == 0, done.stderr
        if name == "certify":
            return {"json": timeless(json.loads(done.stdout))}
        files = [path for path in Path("out").iterdir() if path.suffix not in (".md", ".jsonl", ".html")]
        return {file.name: content(file) for file in files}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in EXACT])
def test_two_runs_give_the_same_bits(name: str, template: Path, tmp_path: Path) -> None:
    more = ["--json"] if name == "certify" else []
    one, two = (made(name, template, tmp_path / folder, *more) for folder in ("one", "two"))
    assert set(COMMANDS[name][1]) - {"made.card.md", "made.html"} <= {*one, "json"}
    assert one == two


def scores(rows: list[dict[str, str]]) -> dict[tuple[str, ...], float]:
    return {(row["image"], row["attack"], row["budget"]): float(row["score"]) for row in rows}


def test_other_batches_give_close_scores(template: Path, tmp_path: Path) -> None:
    one, four = (
        scores(made("csv", template, tmp_path / size, "--batch-size", size)["made.csv"]) for size in ("1", "4")
    )
    assert one == pytest.approx(four, abs=2e-5)  # a hundred-thousandth of the range, 2
