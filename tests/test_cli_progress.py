"""What a long run says where there is no terminal, and how much of it."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import iqa_armor
from iqa_armor.cli import app, console

MODEL = Path(iqa_armor.__file__).parent / "assets" / "demo.safetensors"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that holds the time."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    console.show_messages()
    return now


def test_work_is_told_at_its_start_each_minute_and_at_its_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bars = console.Bars(None)
    for done in range(1, 301):
        clock[0] += 1
        bars("scoring", done, 300)
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 1 of 300",
        "scoring: 61 of 300, about 4 min left",
        "scoring: 121 of 300, about 3 min left",
        "scoring: 181 of 300, about 2 min left",
        "scoring: 241 of 300, about 59 s left",
        "scoring: 300 done",
    ]


def test_what_is_told_of_a_task_stays_on_one_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    bars, task, detail = console.Bars(None), "hardened: fine-tuning", f"epoch 1: {'loss 1.4443, ' * 9}end"
    bars(task, 1, 4, detail)
    bars(long := "evaluating " * 9, 1, 4)
    told = capsys.readouterr().err.splitlines()
    assert told == [f"{task}: {detail}", f"{task}: 1 of 4", f"{long}: 1 of 4"]


def test_a_terminal_breaks_lines_between_words_and_commands_where_a_shell_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = console._Screen(stderr=True, highlight=False, force_terminal=True, width=30)
    console.say("the weights fit no built-in architecture exactly", to=narrow)
    command = ["score", "a b.safetensors", "--data", "csv:labels.csv"]
    console.say_next(*command, to=narrow)
    told = capsys.readouterr().err
    assert [line.strip() for line in told.splitlines()[:2]] == ["the weights fit no built-in", "architecture exactly"]
    lines = told.splitlines()[2:]
    assert len(lines) > 1
    assert all(len(line) <= 30 for line in lines)
    assert shlex.split("".join(lines).replace("\\", "")) == ["next:", "iqa-armor", *command]


def test_steps_of_minutes_have_a_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    screen = console._Screen(stderr=True, force_terminal=True, file=io.StringIO())
    monkeypatch.setattr(console, "stderr", screen)
    with console.progress() as bars:
        assert bars.bars is not None
        bars.bars.get_time = lambda: now[0]
        for done in range(1, 4):
            now[0] += 100
            bars("evaluating", done, 10)
        assert bars.bars.tasks[0].time_remaining == pytest.approx(700, rel=0.01)


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    words = [sys.executable, "-m", "iqa_armor", "info", str(MODEL)]
    ended, written = os.pipe()
    os.close(ended)
    done = subprocess.run(words, stdout=written, stderr=subprocess.PIPE, text=True, check=False)
    os.close(written)
    assert (done.returncode, done.stderr) == (1, "")


def test_quiet_says_nothing_of_progress_but_what_is_wrong(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    console.BEAT.set(console.QUIET)
    console.Bars(None)("scoring", 1, 3, "detail")
    assert capsys.readouterr().err == ""
    failed = CliRunner().invoke(app, ["score", str(MODEL), "absent.png", "--quiet"])
    assert (failed.exit_code, "absent.png" in failed.stderr) == (5, True)
    loud = CliRunner().invoke(app, ["demo", "--print-recipe"])  # what was said before does not last
    assert loud.exit_code == 0
    assert console.BEAT.get() == console.MINUTE


def test_no_color_is_heeded() -> None:
    words = [sys.executable, "-m", "iqa_armor", "schema", "absent"]
    told = {}
    for name in ("NO_COLOR", "OTHER"):
        environment = os.environ | {"FORCE_COLOR": "1", name: "1"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        told[name] = "\x1b[31m" in done.stderr
    assert told == {"NO_COLOR": False, "OTHER": True}
