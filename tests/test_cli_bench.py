"""`iqa-armor bench`, and what `inspect` says of a hardened model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import small_network
from torch import nn
from typer.testing import CliRunner

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.cli import app
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.surgery.edits import splice
from iqa_armor.surgery.stages import choose

BENCH = ("--batch", 1, "--batch", 2, "--repeats", 1, "--device", "cpu", "--no-memory")


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def written(folder: Path, name: str, backend: str | None) -> Path:
    traced = trace(small_network(), torch.zeros(1, 3, 32, 40))
    if backend is not None:
        torch.manual_seed(0)
        splice(traced, choose(traced, "last")[0], RobustBlock(24, backend=backend).eval())  # type: ignore[arg-type]
    path = folder / f"{name}.safetensors"
    save_artifact(QualityModel(traced, Preprocessing(size=(32, 40))), path, recipe={}, provenance={})
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path, "base", None), written(tmp_path, "hardened", "cayley")


def test_json_has_every_figure(pair: tuple[Path, Path]) -> None:
    done = run("bench", *pair, *BENCH, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "iqa-armor/bench/1"
    assert found["settings"]["batches"] == [1, 2]
    base, hardened = found["models"]
    assert (base["name"], hardened["name"]) == ("base", "hardened")
    wanted = {"size", "parameters", "flops", "file_bytes", "first_call", "latency", "throughput", "training_step"}
    assert wanted | {"cache_bytes", "cache_limit_bytes", "peak_memory", "ratio"} <= set(hardened)
    assert hardened["ratio"]["parameters"] > 1 == base["ratio"]["parameters"]
    assert 0 < hardened["cache_bytes"] <= hardened["cache_limit_bytes"] == 2 * 2**30


def test_table_stands_side_by_side(pair: tuple[Path, Path]) -> None:
    done = run("bench", *pair, *BENCH, "--size", "48x32")
    assert done.exit_code == 0, done.stderr
    for words in ("base", "hardened", "48x32", "call, batch 2", "training step, batch 2", "kept between calls"):
        assert words in done.stdout
    assert "peak memory" not in done.stdout


def test_no_cache_keeps_nothing(pair: tuple[Path, Path]) -> None:
    done = run("bench", pair[1], *BENCH, "--no-cache", "--no-training", "--json")
    assert done.exit_code == 0, done.stderr
    (cost,) = json.loads(done.stdout)["models"]
    assert cost["cache_bytes"] == cost["cache_limit_bytes"] == 0
    assert cost["training_step"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.pt"], 3, "no model file absent.pt"),
        (["MODEL", "--size", "12"], 2, "--size: takes HEIGHTxWIDTH"),
        (["MODEL", "--size", "²x²"], 2, "--size: takes HEIGHTxWIDTH"),
        (["MODEL", "--size", "٣٢x٣٢"], 2, "--size: takes HEIGHTxWIDTH"),
        (["MODEL", "--threads", "0"], 2, "--threads"),
        (["MODEL", "--device", "cuda:x"], 2, "cuda:x"),
        (["MODEL", "--batch", "0"], 2, "--batch"),
        (["MODEL", "--repeats", "0"], 2, "--repeats"),
        (["MODEL", "--device", "tpu"], 2, "tpu"),
        ([], 2, "MODEL"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, pair: tuple[Path, Path]
) -> None:
    done = run("bench", *(argument.replace("MODEL", str(pair[0])) for argument in arguments))
    assert done.exit_code == code, (done.stdout, done.stderr)
    assert message in done.stderr.replace("\n", " ")
    assert done.stdout == ""


def test_size_too_small_for_a_network_is_a_message(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 4 * 4, 1))
    traced = trace(network, torch.zeros(1, 3, 8, 8))
    path = tmp_path / "model.safetensors"
    save_artifact(QualityModel(traced, Preprocessing(size=(8, 8))), path, recipe={}, provenance={})
    done = run("bench", path, *BENCH, "--size", "9x9")
    assert done.exit_code == 2, (done.stdout, done.stderr)
    assert "cannot score 1 images of 9x9" in done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_inspect_measures_a_hardened_model(backend: str, tmp_path: Path) -> None:
    path = written(tmp_path, "hardened", backend)
    done = run("inspect", path, "--json")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["spectra"]
    assert (found["backend"], found["channels"], found["size"]) == (backend, 24, [8, 8])
    assert found["method"] == "every frequency"
    assert 0.999 < found["smallest"] <= found["largest"] < 1 + 2 * found["tolerance"]
    assert found["reduction"]["largest"] == pytest.approx(2**0.5, rel=1e-4)
    assert [layer["kind"] for layer in found["after"]] == ["Conv2d", "BatchNorm2d", "Linear"]
    linear = small_network()[-1].weight.detach()
    assert found["after"][-1]["largest"] == pytest.approx(float(linear.norm()), rel=1e-4)
    shown = run("inspect", path).stdout
    assert "orthogonal" in shown
    assert "reduction" in shown


def test_inspect_of_a_plain_model_measures_nothing(pair: tuple[Path, Path]) -> None:
    assert json.loads(run("inspect", pair[0], "--json").stdout)["spectra"] == []
