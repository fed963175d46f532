"""Ray Serve and Ray Data with the scripts of examples/, each in a Ray of its own; `pip install 'ray[serve,data]'`."""

from __future__ import annotations

import os
import re
import signal
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
    with socket.socket() as other:
        if not other.connect_ex(("127.0.0.1", 8000)):
            pytest.skip("something else listens where Ray Serve does")
    (command,) = re.findall(r"^MODEL=model.onnx (serve run .+)$", (ROOT / "docs/cookbook/deploy.md").read_text(), re.M)
    code = "import sys; from ray.serve.scripts import cli; sys.exit(cli(sys.argv[1:]))"
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with subprocess.Popen(
        [sys.executable, "-c", code, *command.split()[1:]],
        cwd=tmp_path,
        env=QUIET | {"MODEL": exported.name},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            until = time.monotonic() + 240
            while "is ready at" not in (line := running.stdout.readline()):
                assert line or running.poll() is None, "Ray Serve did not start"
                assert time.monotonic() < until
            answer = httpx.post("http://127.0.0.1:8000/", content=(photos / "000.png").read_bytes(), timeout=60)
            refused = httpx.post("http://127.0.0.1:8000/", content=b"no image", timeout=60)
        finally:
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=60)
    ((_, expected),) = score_files(opened, [photos / "000.png"])
    assert answer.json()["score"] == pytest.approx(expected, abs=2e-2)
    assert answer.json()["score_range"] == [-1, 1]
    assert refused.status_code == 400
