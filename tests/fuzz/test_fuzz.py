"""Whatever is in a file, its reader gives a result or an ArmorError: a short run; `run.py` is the long one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import READERS, Fuzzed, is_usable

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
EXAMPLES = int(os.environ.get("IQA_ARMOR_FUZZ", "40"))


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fuzzed]:
    return {name: Fuzzed(name, tmp_path_factory.mktemp(name)) for name, reader in READERS.items() if is_usable(reader)}


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IQA_ARMOR_MAX_MEMORY", str(2**30))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_read(name: str, fuzzed: dict[str, Fuzzed]) -> None:
    if name not in fuzzed:
        pytest.skip(f"needs {READERS[name].needs}")
    found = set()
    for suffix, content in fuzzed[name].files:
        path = fuzzed[name].folder / f"whole{suffix}"
        path.write_bytes(content)
        found.add(fuzzed[name].read(path))
    assert "read" in found


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name: str, fuzzed: dict[str, Fuzzed], tmp_path: Path) -> None:
    if name not in fuzzed:
        pytest.skip(f"needs {READERS[name].needs}")

    @settings(
        max_examples=max(5, int(EXAMPLES * READERS[name].share)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**40))
    def run(seed: int) -> None:
        fuzzed[name].read(fuzzed[name].damaged(seed))
        assert not list(tmp_path.iterdir()), "something was written, or ran"

    before = fuzzed[name].plain
    run()
    assert fuzzed[name].plain - before <= EXAMPLES / 10, "the mutator does not know this kind of file"


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_once_failed_is_read_or_refused(path: Path, fuzzed: dict[str, Fuzzed]) -> None:
    name = next((name for name in sorted(fuzzed, key=len, reverse=True) if path.name.startswith(f"{name}-")), None)
    if name is None:
        pytest.skip("its reader is not installed")
    copy = fuzzed[name].folder / f"once{path.suffix}"
    copy.write_bytes(path.read_bytes())
    fuzzed[name].read(copy)
