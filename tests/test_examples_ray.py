"""Ray Serve and Ray Data with the scripts of examples/, each in a Ray of its own; `pip install 'ray[serve,data]'`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import write_images

from iqa_armor import save_model
from iqa_armor.export.write import export_model
from iqa_armor.models.base import QualityModel, ScoreScale
from iqa_armor.pipeline.load import load_model
from iqa_armor.pipeline.score import score_files

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
QUIET = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def model(tmp_path: Path, make_model: Callable[..., QualityModel]) -> Path:
    path = tmp_path / "small.safetensors"
    save_model(make_model(scale=ScoreScale(-1, 1)), path, recipe={}, provenance={})
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", count=5)


def test_ray_data_scores_as_we_do_and_keeps_errors(model: Path, photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    good = {str(path): score for path, score in score_files(load_model(model), [photos])}
    (photos / "broken.png").write_bytes((photos / "000.png").read_bytes()[:90])
    command = [sys.executable, ROOT / "examples" / "ray_score.py", model, photos, tmp_path / "scores"]
    subprocess.run(command, check=True, env=QUIET, timeout=300)
    found = {row["image"]: row for row in parquet.read_table(tmp_path / "scores").to_pylist()}
    bad = found.pop(str(photos / "broken.png"))
    assert "broken.png" in bad["error"]
    assert np.isnan(bad["score"])
    assert {name: row["score"] for name, row in found.items()} == good


def test_ray_serve_answers_as_the_model_does(model: Path, photos: Path, tmp_path: Path) -> None:
    opened = load_model(model)
    exported = export_model(opened, tmp_path / "model.onnx").path
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = "import sys, time; from ray import serve; import ray_serve; "
    code += f"serve.start(http_options={{'port': {port}}}); serve.run(ray_serve.app); print('up', flush=True); "
    code += "sys.stdin.read()"
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=QUIET | {"MODEL": str(exported), "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        until = time.monotonic() + 240
        while "up" not in (line := running.stdout.readline()):
            assert line or running.poll() is None, "Ray Serve did not start"
            assert time.monotonic() < until
        answer = httpx.post(f"http://127.0.0.1:{port}/", content=(photos / "000.png").read_bytes(), timeout=60)
        refused = httpx.post(f"http://127.0.0.1:{port}/", content=b"no image", timeout=60)
        running.stdin.close()
    ((_, expected),) = score_files(opened, [photos / "000.png"])
    assert answer.json()["score"] == pytest.approx(expected, abs=2e-2)
    assert answer.json()["score_range"] == [-1, 1]
    assert refused.status_code == 400
