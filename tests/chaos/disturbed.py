"""Every command that writes, on material small enough to be run many times, and what may be left behind."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from conftest import ARCH, small_network, write_images
from typer.testing import CliRunner

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.cli import app
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale

DATA = ["--data", "csv:images/labels.csv"]
FAST = [
    "--attack",
    "pgd1",
    "--epsilon",
    "4",
    "--ranking-epsilon",
    "1",
    "--limit",
    "4",
    "--check-images",
    "1",
    "--batch-size",
    "2",
]
# By name: the words of a command, and what it writes.
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "train": (
        ["train", "mine.py:make", *DATA, "--epochs", "2", "-o", "out/made.safetensors"],
        ["made.safetensors", "made.card.md"],
    ),
    "harden": (
        ["harden", "model.safetensors", *DATA, "--epochs", "2", "--prune", "0", "-o", "out/made.safetensors"],
        ["made.safetensors", "made.card.md"],
    ),
    "train-purifier": (
        [
            "train-purifier",
            "model.safetensors",
            *DATA,
            "--epochs",
            "1",
            "--attack",
            "pgd1",
            "-o",
            "out/made.safetensors",
        ],
        ["made.safetensors"],
    ),
    "export": (["export", "model.safetensors", "-o", "out/made.pt2"], ["made.pt2"]),
    "report": (["evaluate", "model.safetensors", *DATA, *FAST, "--report", "out/made.html"], ["made.html"]),
    "csv": (["evaluate", "model.safetensors", *DATA, *FAST, "--scores", "out/made.csv"], ["made.csv"]),
    "jsonl": (["evaluate", "model.safetensors", *DATA, *FAST, "--scores", "out/made.jsonl"], ["made.jsonl"]),
    "parquet": (["evaluate", "model.safetensors", *DATA, *FAST, "--scores", "out/made.parquet"], ["made.parquet"]),
    "certify": (
        ["certify", "model.safetensors", *DATA, "--limit", "2", "--samples", "20", "--report", "out/made.html"],
        ["made.html"],
    ),
    "attack": (["attack", "model.safetensors", "images/000.png", "--attack", "pgd1", "-o", "out"], ["attacks.csv"]),
    "evaluate": (["evaluate", "model.safetensors", *DATA, *FAST, "-o", "out"], ["outcome.json"]),
}
# Commands that go on from what an interrupted run has kept.
RESUMED = ("train", "harden", "evaluate")


def prepare(folder: Path) -> None:
    """Put images, a model file and a file with an architecture into a folder."""
    write_images(folder / "images", count=24)
    (folder / "mine.py").write_text(ARCH)
    model = QualityModel(small_network(), Preprocessing(size=(32, 40)), scale=ScoreScale(-1.0, 1.0), name="small")
    save_artifact(model.eval(), folder / "model.safetensors")


@contextmanager
def copied(template: Path, folder: Path) -> Iterator[None]:
    """Work in a copy of a prepared folder."""
    shutil.copytree(template, folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def call(name: str, *more: str):
    """Run a command in this process; it may replace what is there."""
    words = [*COMMANDS[name][0], *more]
    return CliRunner().invoke(app, words if name == "evaluate" else [*words, "--overwrite"])


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


def results(name: str, *more: str) -> dict[str, Any]:
    """Run a command and return what it makes: files, but for those with a date, and what a certificate tells."""
    done = call(name, *more, *(["--json"] if name == "certify" else []))
    assert done.exit_code == 0, done.stderr
    told = {"told": timeless(json.loads(done.stdout))} if name == "certify" else {}
    files = [path for path in Path("out").iterdir() if path.suffix not in (".md", ".jsonl", ".html")]
    return {**told, **{file.name: content(file) for file in files}}


def put_old_files(name: str) -> dict[Path, bytes]:
    """Put files in the place of those that a command makes, but for what an evaluation goes on from."""
    Path("out").mkdir(exist_ok=True)
    files = [Path("out", made) for made in COMMANDS[name][1] if name != "attack"]
    for file in files:
        file.write_bytes(b"what was there before")
    return {file: file.read_bytes() for file in files}


def left_behind(name: str) -> list[str]:
    """Return what stands in the output folder beside results and what a command goes on from."""
    allowed = {*COMMANDS[name][1], *({".made.resume.pt"} if name in RESUMED else ())}
    kept = {"identity.json"} if name == "evaluate" else set()
    found = {path.relative_to("out").as_posix() for path in Path("out").rglob("*")}
    found = {path for path in found if not (name == "evaluate" and path.endswith(".0.jsonl"))}
    return sorted(path for path in found - allowed - kept if not (name == "attack" and path.endswith(".png")))


def require_sentence(done, code: int, *words: str) -> None:
    """Check that a command ended in one sentence with these words, and with a code."""
    assert done.exit_code == code, (done.exit_code, done.output, done.exception)
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert ".unfinished-" not in told[0]
    for word in words:
        assert word in told[0], told[0]


def weights(file: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(file)
