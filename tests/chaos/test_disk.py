"""A disk that is full, read-only or gone ends a command in one sentence, and costs nothing that was there."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disturbed import COMMANDS, call, copied, left_behind, prepare, put_old_files, require_sentence, weights

from iqa_armor import files
from iqa_armor.cli.console import Bars
from iqa_armor.evaluation import journal


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk") / "template"
    prepare(folder)
    return folder


# Commands whose files here are no larger than the trial before the work.
SMALL = ("attack", "certify", "csv", "jsonl", "evaluate", "parquet")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def require_untouched(name: str, before: dict[Path, bytes]) -> None:
    assert {file: file.read_bytes() for file in before} == before
    assert left_behind(name) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(name: str, template: Path, tmp_path: Path) -> None:
    with copied(template, tmp_path / "here"):
        before = put_old_files(name)
        with files_of_at_most(100):  # even the trial before the work fails
            require_sentence(call(name), 1, "cannot write", "File too large")
        require_untouched(name, before)
        if name in SMALL:
            return
        with files_of_at_most(4096):
            require_sentence(call(name), 1, "cannot write", "out")
        require_untouched(name, before)


@pytest.mark.parametrize("code", [errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["train", "csv", "attack", "evaluate"])
def test_a_write_that_fails_at_its_end(
    name: str, code: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path) -> None:
        raise OSError(code, os.strerror(code))

    with copied(template, tmp_path / "here"):
        before = put_old_files(name)
        monkeypatch.setattr(files, "_sync", fail)
        require_sentence(call(name), 1, "cannot write", os.strerror(code))
        require_untouched(name, before)


@pytest.mark.parametrize("name", ["train", "harden"])
def test_what_was_trained_outlives_a_disk_that_is_full_in_the_end(
    name: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with copied(template, tmp_path / "undisturbed"):
        assert call(name).exit_code == 0
        expected = weights("out/made.safetensors")
    replace = Path.replace

    def fail_for_results(self: Path, target: Path) -> Path:
        if self.name.endswith(".card.md"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with copied(template, tmp_path / "here"):
        before = put_old_files(name)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fail_for_results)
            require_sentence(call(name), 1, "cannot write")
        require_untouched(name, before)
        assert Path("out/.made.resume.pt").exists()
        done = call(name, "--resume")
        assert done.exit_code == 0, done.stderr
        assert "continuing after epoch 2 of 2" in done.stderr
        found = weights("out/made.safetensors")
        assert found.keys() == expected.keys()
        assert all(bool((found[key] == expected[key]).all()) for key in expected)
        assert not Path("out/.made.resume.pt").exists()


@pytest.mark.parametrize("name", ["train", "train-purifier", "csv", "evaluate"])
def test_an_output_folder_that_vanishes_meanwhile(
    name: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(*_: object) -> None:
        shutil.rmtree("out", ignore_errors=True)

    with copied(template, tmp_path / "here"):
        monkeypatch.setattr(Bars, "__call__", remove)
        require_sentence(call(name), 1, "cannot write", "out")


def test_results_of_an_evaluation_that_filled_the_disk_are_gone_on_from(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail_at_the_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with copied(template, tmp_path / "whole"):
        assert call("evaluate", "--json").exit_code == 0
        expected = Path("out/outcome.json").read_text()
    with copied(template, tmp_path / "here"):
        with monkeypatch.context() as patch:
            patch.setattr(journal.os, "fsync", fail_at_the_second)
            patch.setattr(files, "_sync", lambda file: None)
            patch.setattr(files, "_sync_folder", lambda folder: None)
            require_sentence(call("evaluate"), 1, "cannot write out: No space left on device")
        (kept,) = Path("out").glob("*.jsonl")
        with kept.open("a") as file:
            file.write('{"number": 1, "dig')  # what a full disk cuts short
        assert call("evaluate").exit_code == 0
        without_time = [line for line in Path("out/outcome.json").read_text().splitlines() if "seconds" not in line]
        assert without_time == [line for line in expected.splitlines() if "seconds" not in line]


@pytest.mark.parametrize("words", [["--version"], ["schema", "evaluation"]])
def test_a_standard_output_that_takes_no_more(words: list[str], template: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "iqa_armor", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=template, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to the standard output: No space left on device\n"
