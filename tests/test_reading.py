"""What is no file, or larger than any file of its kind, is refused before it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from iqa_armor.data.images import read_image
from iqa_armor.data.releases import read_variable
from iqa_armor.data.table import read_labels
from iqa_armor.errors import ArmorError, DataError, UsageError, contents
from iqa_armor.files import claiming
from iqa_armor.pipeline.card import read_outcome
from iqa_armor.recipe import read_recipe

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "image": (".png", read_image),
    "labels": (".csv", read_labels),
    "sheet": (".xlsx", read_labels),
    "matrix": (".mat", lambda path: read_variable("numbers", path, "dmos")),
    "recipe": (".toml", read_recipe),
    "outcome": (".json", read_outcome),
}


def special(path: Path, kind: str) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 2**40)
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device", "terabyte"])
@pytest.mark.parametrize("name", READERS)
def test_pipes_devices_and_files_without_end_are_refused_at_once(name: str, kind: str, tmp_path: Path) -> None:
    suffix, read = READERS[name]
    says = r"it has 1048576 MiB, and more than \d+ are not read" if kind == "terabyte" else "a pipe or a device"
    with pytest.raises(ArmorError, match=says):
        read(special(tmp_path / f"x{suffix}", kind))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_nothing_is_written_in_place_of_a_pipe_or_device(kind: str, tmp_path: Path) -> None:
    path = special(tmp_path / "x.csv", kind)
    with pytest.raises(UsageError, match="is a pipe or a device; name a file"), claiming(path, overwrite=True):
        pass
    assert not path.is_file()


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert contents(tmp_path / "x", 3) == b"abc"
    with pytest.raises(OSError, match="more than 0 are not read"):
        contents(tmp_path / "x", 2)


@pytest.mark.parametrize("line", ["a,1\n", "\n", "a,b,c,d,e,f\n"])
def test_a_table_that_takes_more_memory_than_is_allowed_is_one_sentence(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IQA_ARMOR_MAX_MEMORY", str(2**27))
    path = tmp_path / "labels.csv"
    path.write_text("image,mos\n" + line * (2**26 // len(line)))
    with pytest.raises(DataError, match="more memory than --max-memory allows"):
        read_labels(path)
