"""Exports in fewer bits: what they lose, and that too much is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import memory_dataset, small_network, write_images
from torch import Tensor, nn
from typer.testing import CliRunner

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.cli import app
from iqa_armor.errors import ArmorError, DataError, UsageError
from iqa_armor.export.onnx import Smaller, loss_of
from iqa_armor.export.write import export_model
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.ortho.block import RobustBlock

pytest.importorskip("onnxruntime")
DATA = memory_dataset(24, 10)


def model(*, backend: str | None = None) -> QualityModel:
    """Return a small model whose scores of the training images have unit spread."""
    layers = list(small_network())
    if backend is not None:
        layers.insert(6, RobustBlock(24, backend=backend))
    network = nn.Sequential(*layers).eval()
    made = QualityModel(network, Preprocessing(size=(32, 40)), scale=ScoreScale(-2, 2), name="small")
    with torch.no_grad():
        scores = made(torch.stack([made.prepare(DATA.splits["training"][i]) for i in range(24)]))
        network[-1].weight /= scores.std()
        network[-1].bias.copy_((network[-1].bias - scores.mean()) / scores.std())
    return made.eval()


@pytest.mark.parametrize(
    ("precision", "backend"),
    [
        ("int8", None),
        pytest.param("fp16", "aoc", marks=pytest.mark.slow),
        pytest.param("int8", "cayley", marks=pytest.mark.slow),
        pytest.param("fp16", "cayley", marks=pytest.mark.slow),
    ],
)
def test_fewer_bits_are_smaller_and_score_nearly_alike(precision: str, backend: str | None, tmp_path: Path) -> None:
    made = model(backend=backend)
    plain = export_model(made, tmp_path / "plain.onnx")
    smaller = replace(Smaller.on(made, DATA, precision, limit=6), max_loss=1.0)
    exported = export_model(made, tmp_path / "small.onnx", smaller=smaller)
    assert exported.loss is not None
    assert exported.loss.precision == precision
    assert 0 < exported.loss.error < (0.01 if precision == "fp16" else 0.3)
    assert exported.loss.gains[0] > 0.01
    assert exported.loss.images == 6
    assert precision == "int8" or exported.size_bytes < 0.9 * plain.size_bytes
    import onnx

    stored = onnx.load(tmp_path / "small.onnx")
    kinds = {node.op_type for node in stored.graph.node}
    assert ("QuantizeLinear" in kinds) == (precision == "int8")
    assert ("Cast" in kinds) == (precision == "fp16")
    (text,) = (entry.value for entry in stored.metadata_props if entry.key == "iqa_armor")
    assert json.loads(text)["precision"] == precision
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["plain.onnx", "small.onnx"]


def test_what_loses_too_much_is_refused_and_not_written(tmp_path: Path) -> None:
    made = model()
    smaller = replace(Smaller.on(made, DATA, "int8", limit=6), max_loss=0.0)
    with pytest.raises(ArmorError, match=r"loses 0\.0.* of the score range .*--max-loss"):
        export_model(made, tmp_path / "small.onnx", smaller=smaller)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match=r"only \.onnx"):
        export_model(made, tmp_path / "small.pt2", smaller=smaller)


@pytest.mark.parametrize("rising", [True, False])
def test_each_kind_of_loss_is_seen(rising: bool) -> None:
    made = model()
    made.higher_is_better = rising
    tasks: list[str] = []
    smaller = replace(
        Smaller.on(made, DATA, "int8", limit=6), max_loss=9.0, progress=lambda task, *_: tasks.append(task)
    )
    smaller = replace(smaller, mos=None)

    def plain(images: Tensor) -> Tensor:
        with torch.no_grad():
            return made(images)

    shifted = loss_of(made, lambda images: plain(images) + 0.4, smaller)
    assert (shifted.error, shifted.srocc, shifted.gains[1] - shifted.gains[0]) == pytest.approx(
        (0.1, 0.0, 0.0), abs=1e-6
    )
    assert Counter(tasks) == {"comparing scores": 12, "attacking the model": 6, "attacking the file": 6}
    doubled = loss_of(made, lambda images: 2 * plain(images), smaller)
    assert doubled.gains[1] - doubled.gains[0] == pytest.approx(doubled.gains[0], rel=1e-3)
    coarse = loss_of(made, lambda images: (plain(images) * 10).round() / 10, smaller)
    assert coarse.gains[1] == pytest.approx(coarse.gains[0], abs=0.05)  # steps do not hide from a borrowed gradient
    for score, told in (
        (lambda images: -plain(images), "rank correlation"),
        (lambda images: 2 * plain(images), "to an attack"),
        (lambda images: plain(images) * torch.nan, "rank correlation"),
    ):
        with pytest.raises(ArmorError, match=told):
            loss_of(made, score, replace(smaller, max_loss=0.01))


def test_the_command_takes_data_and_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    save_artifact(model(), tmp_path / "m.safetensors")
    data = f"csv:{write_images(tmp_path / 'images', count=20) / 'labels.csv'}"
    words = ["export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "m.onnx"), "--data", data, "--json"]
    done = CliRunner().invoke(app, [*words, "--fp16"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["loss"]["precision"] == "fp16"
    both = CliRunner().invoke(app, [*words, "--fp16", "--int8", "--overwrite"])
    assert (both.exit_code, "exclude" in both.stderr) == (2, True)
    with pytest.raises(DataError, match="at least 3"):
        Smaller.on(model(), memory_dataset(8, 2), "int8", limit=8)
