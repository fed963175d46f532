"""Outputs of all commands: probed and claimed before any work is done, by one rule, with one exit code per failure."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from conftest import ARCH, write_images
from forked import finished
from typer.testing import CliRunner

import iqa_armor
from iqa_armor.cli import app
from iqa_armor.errors import OutputError, UsageError
from iqa_armor.files import claiming

MODEL = Path(iqa_armor.__file__).parent / "assets" / "demo.safetensors"
FILES = {  # commands that write a file, OUT being its name without suffix
    "harden": ["harden", MODEL, "--data", "synthetic", "-o", "OUT.safetensors"],
    "train": ["train", "resnet18", "--data", "synthetic", "-o", "OUT.safetensors"],
    "train-purifier": ["train-purifier", MODEL, "--data", "synthetic", "-o", "OUT.safetensors"],
    "export": ["export", MODEL, "-o", "OUT.pt2"],
    "report": ["evaluate", MODEL, "--data", "synthetic", "--report", "OUT.html"],
    "scores": ["evaluate", MODEL, "--data", "synthetic", "--scores", "OUT.csv"],
    "certify": ["certify", MODEL, "--data", "synthetic", "--report", "OUT.html"],
}
FOLDERS = {
    "evaluate": ["evaluate", MODEL, "--data", "synthetic", "-o", "OUT"],
    "attack": ["attack", MODEL, "IMAGES", "-o", "OUT"],
    "demo": ["demo", "-o", "OUT"],
}


def run(words: list[object], out: Path):
    called = [str(word).replace("OUT", str(out)).replace("IMAGES", str(out.parent)) for word in words]
    return CliRunner().invoke(app, called), Path(next(word for word in called if word.startswith(str(out))))


def refused(words: list[object], out: Path, code: int, message: str) -> Path:
    done, target = run(words, out)
    assert done.exit_code == code, (done.stdout, done.stderr)
    assert message in done.stderr
    assert str(target) in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return target


@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
def test_what_cannot_be_written_is_refused_before_any_work(command: str) -> None:
    refused({**FILES, **FOLDERS}[command], Path("/proc/nowhere/out"), 1, "cannot write")


@pytest.mark.parametrize("command", FILES)
def test_a_file_that_exists_stays_unless_it_may_be_overwritten(command: str, tmp_path: Path) -> None:
    target = run([*FILES[command], "--recipe", "none.toml"], tmp_path / "out")[1]
    target.write_text("kept")
    assert refused(FILES[command], tmp_path / "out", 2, "exists already; replace it with --overwrite") == target
    assert target.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_file_that_may_be_overwritten_is(tmp_path: Path) -> None:
    (tmp_path / "out.pt2").write_text("old")
    done, target = run([*FILES["export"], "--overwrite"], tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert target.stat().st_size > 1000


@pytest.mark.parametrize("command", FILES)
def test_a_folder_in_the_place_of_a_file_is_refused(command: str, tmp_path: Path) -> None:
    target = run([*FILES[command], "--recipe", "none.toml"], tmp_path / "out")[1]
    target.mkdir()
    refused(FILES[command], tmp_path / "out", 2, "is a folder")


@pytest.mark.parametrize("command", FOLDERS)
def test_a_file_in_the_place_of_a_folder_is_refused(command: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    refused(FOLDERS[command], tmp_path / "out", 2, "is a file")


def test_the_demos_files_stay_too(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("kept")
    refused(FOLDERS["demo"], tmp_path / "out", 2, "results.json exists already")


@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
def test_of_two_jobs_with_one_output_the_second_is_refused(command: str, tmp_path: Path) -> None:
    words = {**FILES, **FOLDERS}[command]
    target = run([*words, "--recipe", "none.toml"], tmp_path / "out")[1]
    with claiming(target, overwrite=False, is_folder=command in FOLDERS):
        refused(words, tmp_path / "out", 1, "another process is about to write")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["harden", "train", "train-purifier", "export", "certify", "attack", "demo"])
def test_work_that_processes_cannot_share_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run({**FILES, **FOLDERS}[command], tmp_path / "out")[0]
    assert done.exit_code == 2, done.output
    assert "only evaluate shares its work" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ARCH)
    labels = write_images(tmp_path / "images", count=40) / "labels.csv"
    words = ["train", f"{tmp_path}/mine.py:make", "--data", f"csv:{labels}", "--epochs", "1", "-o", "out.safetensors"]
    limits = (resource.RLIMIT_FSIZE, (16384, 16384))
    code, _, said = finished(words, folder=tmp_path, before=lambda: resource.setrlimit(*limits))
    assert code == 1, said
    assert "is the disk full?" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "mine.py"]


def test_what_a_killed_process_claimed_is_taken_over_and_an_empty_folder_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.claimed").touch()
    with claiming(tmp_path / "out", overwrite=False):
        with pytest.raises(OutputError, match="another process"), claiming(tmp_path / "out", overwrite=True):
            pass
        (tmp_path / "out").write_text("made")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UsageError, match="exists already"), claiming(tmp_path / "out", overwrite=False):
        pass
    with claiming(tmp_path / "folder", overwrite=False, is_folder=True):
        assert (tmp_path / "folder").is_dir()
    assert not (tmp_path / "folder").exists()
