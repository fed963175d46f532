"""A signal ends a command in one sentence with its exit code, leaves nothing unfinished, and says how to go on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disturbed import (
    COMMANDS,
    RESUMED,
    call,
    content,
    copied,
    left_behind,
    prepare,
    put_old_files,
    require_sentence,
    results,
    weights,
)
from forked import Forked
from safetensors.numpy import load
from typer.testing import CliRunner

from iqa_armor import files
from iqa_armor.cli import app, console
from iqa_armor.cli.console import Bars
from iqa_armor.pipeline.demo import SETTINGS

KILLS = int(os.environ.get("IQA_ARMOR_KILLS", "25"))
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals") / "template"
    prepare(folder)
    return folder


@pytest.fixture
def handled() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    console.stop_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signalled(number: int, monkeypatch: pytest.MonkeyPatch, *, when: str = "") -> None:
    """Have a signal come with the first report of progress, or with the first in the second half of a task."""

    def tell(self: Bars, task: str, done: int, total: int, detail: str = "") -> None:
        if not when or (task.startswith(when) and not detail and total < 2 * done):
            signal.raise_signal(number)

    monkeypatch.setattr(Bars, "__call__", tell)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"export", "jsonl", "parquet"}))
def test_a_signal_in_the_first_moments(
    name: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handled: None
) -> None:
    number = list(SIGNALS)[len(name) % 3]
    with copied(template, tmp_path / "here"):
        before = put_old_files(name)
        signalled(number, monkeypatch)
        require_sentence(call(name), SIGNALS[number], f"stopped by {number.name}", "run the same command")
        assert {file: file.read_bytes() for file in before} == before
        assert left_behind(name) == []


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", RESUMED)
def test_a_signalled_command_goes_on_to_the_same_result(
    name: str, number: signal.Signals, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handled: None
) -> None:
    file = "out/made.safetensors"
    with copied(template, tmp_path / "here"), monkeypatch.context() as patch:
        signalled(number, patch, when="evaluating" if name == "evaluate" else "fine-tuning")
        done = call(name)
        how = "run the same command again" if name == "evaluate" else "run the same command with --resume"
        require_sentence(done, SIGNALS[number], f"stopped by {number.name}", how)
        assert left_behind(name) == []
    with copied(tmp_path / "here", tmp_path / "again"):
        assert call(name, *(["--resume"] if name != "evaluate" else [])).exit_code == 0
        assert [path.name for path in Path("out").iterdir() if path.name.startswith(".")] == []
        found = weights(file) if name != "evaluate" else {}
    with copied(template, tmp_path / "whole"):
        assert call(name).exit_code == 0
        expected = weights(file) if name != "evaluate" else {}
    assert all(bool((found[key] == value).all()) for key, value in expected.items())


def test_what_a_parent_ignores_stays_ignored(handled: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    console.stop_on_signals()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGHUP))],
    ids=lambda number: number.name,
)
def test_a_process_ends_with_the_code_that_shells_know(number: signal.Signals, template: Path, tmp_path: Path) -> None:
    words = [str(template / "mine.py:make"), "--data", f"csv:{template}/images/labels.csv", "--epochs", "9999"]
    with Forked(["train", *words, "-o", "made.safetensors"], folder=tmp_path) as process:
        assert any("epoch 2" in line for line in process.stderr)
        process.send_signal(number)
        told = process.stderr.read()
        assert process.wait() == SIGNALS[number]
    assert "Traceback" not in told
    assert told.endswith(f"error: stopped by {number.name}: {console.RESUME}\n")
    assert [path.name for path in tmp_path.iterdir()] == [".made.resume.pt"]


def killed_at(count: int, name: str, folder: Path) -> Forked:
    """Start a command that ends at a moment of writing, as with a lost machine."""
    moments = iter(range(count - 1, -1, -1))

    def sync(file: object) -> None:
        if next(moments) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    words = COMMANDS[name][0] if name == "evaluate" else [*COMMANDS[name][0], "--overwrite"]
    return Forked(words, folder=folder, before=lambda: setattr(files, "_sync", sync))


def test_the_next_run_removes_what_killed_ones_left(template: Path, tmp_path: Path) -> None:
    moments = [("train", 2)]
    processes = []
    for name, count in moments:
        with copied(template, tmp_path / name):
            put_old_files(name)
            processes.append(killed_at(count, name, tmp_path / name))
    for (name, _), process in zip(moments, processes, strict=True):
        with process:
            assert process.wait() == -signal.SIGKILL
        os.chdir(tmp_path / name)
        assert [path for path in left_behind(name) if path.startswith(".")], name
        done = call(name, *(["--resume"] if name in RESUMED else []))
        assert done.exit_code == 0, done.stderr
        assert [path.name for path in Path("out").iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"jsonl", "parquet", "report"}))
def test_many_kills(name: str, template: Path, tmp_path: Path) -> None:
    """As many kills at random moments as IQA_ARMOR_KILLS says, 25 without it, each gone on to the same result."""
    drawn = random.Random(name)
    resumed = ["--resume"] if name in RESUMED and name != "evaluate" else []
    words = [*COMMANDS[name][0], *([] if name == "evaluate" else ["--overwrite", *resumed])]
    with copied(template, tmp_path / "whole"):
        expected, began = unresumed(results(name)), time.monotonic()
        assert unresumed(results(name)) == expected
        span = time.monotonic() - began
    with copied(template, tmp_path / "here"):
        for _ in range(KILLS):
            kill(words, after=drawn.uniform(0, span))
            assert unresumed(results(name, *resumed)) == expected
            assert [path.name for path in Path("out").iterdir() if path.name.startswith(".")] == []
            if name == "evaluate":  # would have nothing left to do
                shutil.rmtree("out")


PIPELINE = """
data = "csv:images/labels.csv"
[train]
arch = "mine.py:make"
epochs = 1
output = "out/base.safetensors"
[harden]
model = "out/base.safetensors"
epochs = 1
prune = 0.0
output = "out/hard.safetensors"
[evaluate]
models = ["out/base.safetensors", "out/hard.safetensors"]
attack = "pgd1"
epsilon = "4"
ranking_epsilon = "1"
limit = 4
scores = "out/scores.csv"
[export]
model = "out/hard.safetensors"
output = "out/hard.pt2"
"""


def done_pipeline() -> dict[str, Any]:
    """Run the steps that are not done, each in a process of its own, and return what all of them have made."""
    assert CliRunner().invoke(app, ["run", "pipeline.toml"]).exit_code == 0
    return unresumed({path.name: content(path) for path in sorted(Path("out").iterdir()) if path.suffix != ".md"})


@pytest.mark.slow
def test_many_kills_of_a_pipeline(template: Path, tmp_path: Path) -> None:
    """A fifth of the kills, each of the pipeline with its step; the steps that were done before are kept."""
    drawn = random.Random("run")
    with copied(template, tmp_path / "whole"):
        Path("pipeline.toml").write_text(PIPELINE)
        began = time.monotonic()
        expected = done_pipeline()
        span = time.monotonic() - began
    with copied(template, tmp_path / "here"):
        Path("pipeline.toml").write_text(PIPELINE)
        for _ in range(KILLS // 5):
            kill(["run", "pipeline.toml"], after=drawn.uniform(0, span))
            assert done_pipeline() == expected
            assert [path.name for path in Path("out").iterdir() if path.name.startswith(".")] == []
            shutil.rmtree("out")
            Path(".pipeline.run.json").unlink()


@pytest.mark.slow
def test_many_kills_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the kills, of the demo on few images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("iqa_armor.pipeline.demo.DEMO_DATA", "synthetic:scenes=6,seed=2026")
    monkeypatch.setattr("iqa_armor.pipeline.demo.SETTINGS", SETTINGS.model_copy(update={"limit": 4}))
    words = ["demo", "-o", "out", "--overwrite", "--set", "epochs=1"]

    def made() -> dict[str, Any]:
        assert CliRunner().invoke(app, words).exit_code == 0
        return unresumed({path.name: content(path) for path in Path("out").iterdir() if path.suffix != ".html"})

    began, drawn = time.monotonic(), random.Random("demo")
    expected = made()
    span = time.monotonic() - began
    for _ in range(KILLS // 5):
        kill(words, after=drawn.uniform(0, span))
        assert made() == expected
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_many_kills_of_a_benchmark(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only measures leaves nothing anywhere, killed or not."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    drawn, words = random.Random("bench"), ["bench", str(template / "model.safetensors"), "--repeats", "1", "--json"]
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    expected = set(json.loads(CliRunner().invoke(app, words).stdout))
    span = time.monotonic() - began
    for _ in range(KILLS):
        kill(words, after=drawn.uniform(0, span))
        assert set(json.loads(CliRunner().invoke(app, words).stdout)) == expected
        assert list(tmp_path.iterdir()) == []


def kill(words: list[str], *, after: float) -> None:
    """Run a command in a fork of this process, which has imported everything, and kill it after so many seconds.

    The processes that it has started end with it, as on a lost machine.
    """
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        try:
            app(words)
        finally:
            os._exit(0)
    time.sleep(after)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # in its very first moments
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def unresumed(made: dict[str, Any]) -> dict[str, Any]:
    """Put weights in the place of artefacts, which tell how often a training was gone on with."""

    def of(file: bytes) -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in load(file).items()}

    return {name: of(file) if name.endswith(".safetensors") else file for name, file in made.items()}
