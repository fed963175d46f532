"""Files appear whole or not at all, with the mode the umask gives, and killed runs leave nothing for long."""

import errno
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from iqa_armor.errors import OutputError, UsageError
from iqa_armor.files import replacing, require_writable, staging, write_whole

KEEPS_WRITING = """
import sys, time
from pathlib import Path
from iqa_armor.files import replacing, staging
with {writer}(Path(sys.argv[1])) as place:
    target = place if place.suffix else place / "part.txt"
    target.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writer(writer: str, target: Path) -> subprocess.Popen[str]:
    code = KEEPS_WRITING.format(writer=writer)
    process = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def write_half_and_fail(writer: AbstractContextManager[Path]) -> None:
    with writer as place:
        (place if place.suffix else place / "a").write_text("half")
        raise KeyError


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("content", ["text ü", b"\x00\xff"], ids=["text", "bytes"])
def test_content_comes_back(tmp_path: Path, content: str | bytes) -> None:
    write_whole(tmp_path / "f", content)
    assert (tmp_path / "f").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_follows_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "f", "x")
        with staging(tmp_path / "folder") as folder:
            (folder / "g").write_text("x")
        assert os.umask(mask) == mask, "the umask of the process was changed"
    finally:
        os.umask(before)
    for file in (tmp_path / "f", tmp_path / "folder" / "g"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "f.txt"
    target.write_text("before")
    with pytest.raises(KeyError):
        write_half_and_fail(replacing(target))
    assert target.read_text() == "before"
    assert hidden(tmp_path) == []


def test_side_files_are_dropped_and_the_suffix_is_kept(tmp_path: Path) -> None:
    with replacing(tmp_path / "f.onnx") as unfinished:
        assert unfinished.suffix == ".onnx"
        unfinished.write_text("model")
        unfinished.with_suffix(".data").write_text("side")
    assert [path.name for path in tmp_path.iterdir()] == ["f.onnx"]


def test_staged_files_appear_together_and_a_new_folder_goes_with_a_failure(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    with pytest.raises(KeyError):
        write_half_and_fail(staging(output))
    assert not output.exists()
    with staging(output) as folder:
        (folder / "a").write_text("x")
        (folder / "b").write_text("y")
        assert [path.name for path in output.iterdir()] == [folder.name]
    assert sorted(path.name for path in output.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(("writer", "name"), [("replacing", "f.txt"), ("staging", "out")])
def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path, writer: str, name: str) -> None:
    target = tmp_path / name
    process = start_writer(writer, target)
    process.send_signal(signal.SIGKILL)
    process.wait()
    place = tmp_path if writer == "replacing" else target
    assert len(hidden(place)) == 1
    if writer == "replacing":
        write_whole(target, "whole")
        assert target.read_text() == "whole"
    else:
        with staging(target):
            pass
    assert hidden(place) == []


def test_a_living_writer_of_the_same_file_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "f.txt"
    process = start_writer("replacing", target)
    try:
        write_whole(target, "mine")
        require_writable(target)
        assert len(hidden(tmp_path)) == 1
    finally:
        process.kill()
        process.wait()


def test_leftovers_of_other_files_are_not_ours(tmp_path: Path) -> None:
    other = tmp_path / ".g.unfinished-abc"
    other.mkdir()
    write_whole(tmp_path / "f", "x")
    assert other.exists()
    write_whole(tmp_path / "g", "x")
    assert not other.exists()


@pytest.mark.parametrize("name", ["[a]*.txt", "a?.txt", ".hidden", "ü ü"])
def test_names_with_special_letters(tmp_path: Path, name: str) -> None:
    (tmp_path / f".{name}.unfinished-old").mkdir()
    write_whole(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_threads_write_one_file_without_mixing(tmp_path: Path) -> None:
    contents = [letter * 500 for letter in "abcdefgh"] * 25
    with ThreadPoolExecutor(8) as threads:
        done = [threads.submit(write_whole, tmp_path / "f", content) for content in contents]
    for one in done:
        one.result()
    assert (tmp_path / "f").read_text() in contents
    assert hidden(tmp_path) == []


def test_require_writable_makes_the_folder_and_leaves_no_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "f.txt")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        require_writable(tmp_path)


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    for refused in (lambda: require_writable(tmp_path / "f" / "g"), lambda: write_whole(tmp_path / "f" / "g", "x")):
        with pytest.raises(OutputError, match=r"cannot write .*name another place"):
            refused()


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*f\.txt: No space left on device"),
        replacing(tmp_path / "f.txt"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []
