"""Damaged files and files that are something else: each is refused by name, without a traceback."""

import contextlib
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_forgery import honest_artifact, parts, write
from safetensors.torch import load_file, save_file

from iqa_armor.artifact.checks import MAX_HEADER_BYTES
from iqa_armor.artifact.storage import is_artifact, load_artifact, read_metadata
from iqa_armor.errors import ModelLoadError


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return honest_artifact(tmp_path_factory.mktemp("honest") / "model.safetensors")


def with_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], Path]:
    def make(honest: Path, path: Path) -> Path:
        header, data = parts(honest)
        change(header)
        return write(path, header, data)

    return make


def with_metadata(text: str) -> Callable[[Path, Path], Path]:
    return with_header(lambda header: header["__metadata__"].update(iqa_armor=text))


def with_content(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], Path]:
    def make(honest: Path, path: Path) -> Path:
        path.write_bytes(change(honest.read_bytes()))
        return path

    return make


def with_nan(honest: Path, path: Path) -> Path:
    tensors = load_file(honest)
    tensors["head.weight"][0, 0] = math.nan
    tensors["gain"][0] = math.inf
    save_file(tensors, path, parts(honest)[0]["__metadata__"])
    return path


def huge(header: dict[str, Any]) -> None:
    header["gain"].update(shape=[2**31, 2**31], data_offsets=[0, 2**64])


def sparse(honest: Path, path: Path) -> Path:
    """Write a file that claims 64 GB of weights and takes no room on the disk."""
    entry = {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}
    entries = {f"t{i}": {**entry, "data_offsets": [i * 2**30, (i + 1) * 2**30]} for i in range(64)}
    write(path, {"__metadata__": parts(honest)[0]["__metadata__"], **entries}, b"")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 64 * 2**30)
    return path


def duplicate_tensor(honest: Path, path: Path) -> Path:
    header, data = parts(honest)
    text = json.dumps(header)
    return write(path, text[:-1] + ', "gain": ' + json.dumps(header["gain"]) + "}", data)


BROKEN: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "empty": (with_content(lambda content: b""), "truncated"),
    "five bytes": (with_content(lambda content: content[:5]), "truncated"),
    "half the header": (with_content(lambda content: content[:200]), "truncated"),
    "half the tensors": (with_content(lambda content: content[:-40]), "truncated"),
    "bytes at the end": (with_content(lambda content: content + b"\0"), "damaged"),
    "huge header length": (
        with_content(lambda content: b"\xff" * 8 + content[8:]),
        "truncated or no safetensors",
    ),
    "header too long": (
        with_content(lambda content: struct.pack("<Q", MAX_HEADER_BYTES + 1) + b" " * (MAX_HEADER_BYTES + 1)),
        "at most",
    ),
    "header of random bytes": (
        with_content(lambda content: content[:8] + b"\xfe" * (len(content) - 8)),
        "JSON is broken",
    ),
    "header that is a list": (lambda honest, path: write(path, "[]", b""), "not a JSON object"),
    "deep header": (lambda honest, path: write(path, "[" * 100_000, b""), "nested more than"),
    "deep header, closed": (lambda honest, path: write(path, "[" * 500 + "]" * 500, b""), "nested more than"),
    "header with NaN": (lambda honest, path: write(path, '{"a": NaN}', b""), "holds NaN"),
    "number of many digits": (
        lambda honest, path: write(path, '{"a": ' + "9" * 5000 + "}", b""),
        "JSON is broken",
    ),
    "name twice": (duplicate_tensor, "'gain' twice"),
    "many names twice": (
        lambda honest, path: write(path, "{" + ",".join(f'"{i % 90_000}":0' for i in range(100_000)) + "}", b""),
        "twice",
    ),
    "metadata of numbers": (
        with_header(lambda header: header.update(__metadata__={"iqa_armor": 1})),
        "wrong header",
    ),
    "huge sizes": (with_header(huge), "more than .* elements"),
    "sparse file": (sparse, "elements together"),
    "negative size": (with_header(lambda header: header["gain"].update(shape=[-4, -1, 1])), "wrong size"),
    "size by text": (with_header(lambda header: header["gain"].update(shape="4")), "wrong size"),
    "size that does not fit": (
        with_header(lambda header: header["gain"].update(shape=[5, 1, 1])),
        "declares 20 bytes",
    ),
    "offsets out of order": (
        with_header(lambda header: header["gain"].update(data_offsets=[16, 0])),
        "occupies -16",
    ),
    "overlapping tensors": (
        with_header(lambda header: header["gain"].update(data_offsets=header["head.weight"]["data_offsets"])),
        "overlap",
    ),
    "unknown data type": (with_header(lambda header: header["gain"].update(dtype="X9")), "unknown data type"),
    "missing tensor field": (with_header(lambda header: header["gain"].pop("dtype")), "lacks dtype"),
    "tensor that is text": (with_header(lambda header: header.update(gain="x")), "JSON object"),
    "tensors swapped for integers": (
        with_header(lambda header: header["gain"].update(dtype="I32")),
        "declared as",
    ),
    "no description": (with_header(lambda header: header.pop("__metadata__")), "no iqa-armor model"),
    "broken description": (with_metadata("{"), "JSON is broken"),
    "description that is a list": (with_metadata("[]"), "format"),
    "deep description": (with_metadata("[" * 100_000), "nested more than"),
    "field twice": (with_metadata('{"format": 1, "format": 1}'), "twice"),
    "weights that are not numbers": (
        with_nan,
        "NaN or infinite in 'gain', 'head.weight'|'head.weight', 'gain'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(name: str, honest: Path, tmp_path: Path) -> None:
    make, message = BROKEN[name]
    path = make(honest, tmp_path / "broken.safetensors")
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_artifact(path)
    assert str(path) in str(caught.value)
    assert isinstance(is_artifact(path), bool)


@pytest.mark.parametrize("name", ["missing.safetensors", "."])
def test_what_is_no_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"does not exist|is a folder"):
        load_artifact(tmp_path / name)
    with pytest.raises(ModelLoadError, match=r"does not exist|is a folder"):
        read_metadata(tmp_path / name)


def test_a_pickle_under_our_name_is_not_opened(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    path = tmp_path / "model.safetensors"
    torch.save({"weights": Touch()}, path)
    with pytest.raises(ModelLoadError, match="refused"):
        load_artifact(path)
    assert not is_artifact(path)
    assert not (tmp_path / "executed").exists()


def test_every_single_truncation_is_refused(honest: Path, tmp_path: Path) -> None:
    content = honest.read_bytes()
    path = tmp_path / "short.safetensors"
    for length in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:length])
        with pytest.raises(ModelLoadError):
            load_artifact(path)


def test_random_damage_is_refused_or_harmless(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed byte anywhere in the header gives the same model or a refusal, never another exception."""
    monkeypatch.chdir(tmp_path)
    content, path = honest.read_bytes(), tmp_path / "damaged.safetensors"
    (length,) = struct.unpack("<Q", content[:8])
    generator = torch.Generator().manual_seed(5)
    for _ in range(150):
        at = int(torch.randint(0, 8 + length, (1,), generator=generator))
        value = int(torch.randint(0, 256, (1,), generator=generator))
        path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
        with contextlib.suppress(ModelLoadError):
            load_artifact(path)
