"""`--max-memory` holds for model files: what takes more is one sentence, and the limit is lifted afterwards."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch

from iqa_armor.errors import ModelLoadError
from iqa_armor.machine import capped
from iqa_armor.models.checkpoints import read_checkpoint


@pytest.fixture(autouse=True)
def _quarter_of_a_gigabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IQA_ARMOR_MAX_MEMORY", str(2**28))


def bomb(path: Path, size: int) -> Path:
    """Write a checkpoint of zeros, compressed as `torch.save` does not."""
    made = io.BytesIO()
    torch.save({"weight": torch.zeros(size)}, made)
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return path


def test_an_archive_is_measured_before_it_is_read(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.pt", 80_000_000)
    assert path.stat().st_size < 5_000_000
    with pytest.raises(ModelLoadError, match=r"bytes once unpacked, more than --max-memory allows"):
        read_checkpoint(path)
    assert list(read_checkpoint(bomb(tmp_path / "fine.pt", 1000)).state) == ["weight"]


def test_a_pickle_that_asks_for_memory_gets_none(tmp_path: Path) -> None:
    class Huge:
        def __reduce__(self) -> tuple[object, ...]:
            return bytearray, (2**32,)

    path = tmp_path / "huge.pt"
    torch.save({"weight": torch.zeros(3), "more": Huge()}, path)
    with pytest.raises(ModelLoadError, match=r"takes more memory than --max-memory allows|would run"):
        read_checkpoint(path)


def test_the_cap_is_lifted_afterwards() -> None:
    with pytest.raises((MemoryError, RuntimeError)), capped():
        bytearray(2**29)
    assert len(bytearray(2**29)) == 2**29
