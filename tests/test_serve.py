"""`iqa-armor serve`: scores over loopback, batches, limits, and models that threads share."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_network
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.cli import app as command_line
from iqa_armor.errors import ArmorError
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.pipeline import serve as serving
from iqa_armor.pipeline.load import load_model
from iqa_armor.pipeline.serve import make_app
from iqa_armor.pipeline.settings import Opening, Service

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")


def picture(seed: int, size: tuple[int, int] = (50, 40), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, kind)
    return stored.getvalue()


@contextmanager
def served(model: QualityModel, **settings: float) -> Iterator[httpx.Client]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(model, Service(**settings)), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def small(**more: object) -> QualityModel:
    return QualityModel(small_network(), Preprocessing(size=(32, 40)), name="small", **more).eval()


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_scores_are_those_of_python_and_come_in_batches() -> None:
    model = small(scale=ScoreScale(-1, 1))
    pictures = [picture(number, kind="JPEG" if number % 2 else "PNG") for number in range(24)]
    alone = [model.score(Image.open(io.BytesIO(each))) for each in pictures]
    with served(model, batch_size=8, wait=100) as client, ThreadPoolExecutor(12) as pool:
        assert client.get("/health").json()["status"] == "ok"
        answers = list(pool.map(lambda each: client.post("/score", content=each), pictures))
        assert [answer.status_code for answer in answers] == [200] * 24
        assert [answer.json()["score"] for answer in answers] == pytest.approx(alone, rel=1e-5)
        first = answers[0].json()
        assert first == {"model": "small", "higher_is_better": True, "score": first["score"], "0-100": first["0-100"]}
        assert first["0-100"] == pytest.approx(50 + 50 * alone[0], rel=1e-5)
        assert metric(client, 'iqa_armor_answers_total{status="200"}') == 24
        assert metric(client, "iqa_armor_batch_sum") == 24
        assert metric(client, "iqa_armor_batch_count") < 24


@pytest.mark.parametrize(
    ("content", "settings", "status", "told"),
    [
        (b"", {}, 415, "send the bytes"),
        (b'--9\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + picture(0), {}, 415, "not a form"),
        (b'{"image": ""}', {}, 415, "curl --data-binary @photo.jpg"),
        (b"GIF89a", {}, 422, "image"),
        (picture(0)[:2000], {}, 422, "truncated"),
        (bytes(20_000), {"max_size": 0.01}, 413, "larger than 0.01 MB"),
        (picture(0), {"max_pixels": 0.001}, 422, "at most 1000"),
    ],
)
def test_what_is_refused_says_why_and_others_go_on(
    content: bytes, settings: dict[str, float], status: int, told: str
) -> None:
    with served(small(), **settings) as client:
        answer = client.post("/score", content=content)
        assert (answer.status_code, told in answer.json()["detail"]) == (status, True), answer.text
        assert client.get("/score").status_code == 405
        assert client.post("/score", content=picture(1, (10, 10))).status_code == 200
        assert metric(client, f'iqa_armor_answers_total{{status="{status}"}}') == 1


def test_a_client_that_leaves_is_counted_and_leaves_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with served(small()) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as leaving:
            leaving.sendall(b"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\nabc")
        until = time.monotonic() + 20
        while 'status="499"' not in client.get("/metrics").text and time.monotonic() < until:
            time.sleep(0.05)
        assert metric(client, 'iqa_armor_answers_total{status="499"}') == 1
        assert client.post("/score", content=picture(1)).status_code == 200
    assert "Traceback" not in capfd.readouterr().err


class Slow(nn.Module):
    """A network that takes its time, and fails on dark images."""

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(0.3)
        if bool((images.mean((1, 2, 3)) < 0.01).any()):
            raise ValueError("a dark one")
        return images.mean((1, 2, 3))


def slow() -> QualityModel:
    return QualityModel(Slow(), Preprocessing(size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1)), name="slow").eval()


def test_too_many_are_turned_away_and_too_slow_ones_told() -> None:
    with served(slow(), batch_size=1, max_waiting=1, wait=0) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: client.post("/score", content=picture(number)), range(8)))
        found = {answer.status_code for answer in answers}
        assert found == {200, 503}
        assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)
    with served(slow(), timeout=0.1) as client:
        assert client.post("/score", content=picture(0)).status_code == 504
        time.sleep(0.4)
        assert client.get("/health").status_code == 200


def test_an_image_that_the_model_cannot_score_does_not_lose_those_beside_it() -> None:
    black = io.BytesIO()
    Image.new("RGB", (9, 9)).save(black, "PNG")
    with served(slow(), batch_size=4, wait=200) as client, ThreadPoolExecutor(3) as pool:
        contents = [picture(0), black.getvalue(), picture(1)]
        answers = list(pool.map(lambda each: client.post("/score", content=each), contents))
        assert [answer.status_code for answer in answers] == [200, 422, 200]
        assert "a dark one" in answers[1].json()["detail"]


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    save_artifact(small(), tmp_path / "m.safetensors")
    words = ["-m", "iqa_armor", "serve", str(tmp_path / "m.safetensors"), "--port", "0", "--device", "cpu", "--json"]
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            text = ""
            while not text.endswith("}\n"):
                text += process.stdout.readline()
            answer = httpx.post(json.loads(text)["url"] + "/score", content=picture(3), timeout=30, trust_env=False)
            assert answer.json()["score"] == pytest.approx(small().score(Image.open(io.BytesIO(picture(3)))), rel=1e-5)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=20)[1]
            assert process.returncode == 128 + signal.SIGTERM
            assert "stopped by SIGTERM: images that had come were answered first" in said
        finally:
            process.kill()


def test_a_port_that_is_taken_and_a_missing_extra_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_artifact(small(), tmp_path / "m.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(command_line, ["serve", str(tmp_path / "m.safetensors"), "--port", port])
    assert done.exit_code == 1
    assert f"port {port}" in done.stderr
    monkeypatch.setattr(serving, "NEEDS", ("no_such_package",))
    with pytest.raises(ArmorError, match=r"no_such_package.*iqa-armor\[serve\]"):
        make_app(small())


FACTORY = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
"""


def test_models_are_loaded_traced_and_shared_by_threads(tmp_path: Path) -> None:
    network = small_network()
    network.insert(3, RobustBlock(16, backend="cayley"))
    save_artifact(QualityModel(network, Preprocessing(size=(32, 40))), tmp_path / "m.safetensors")
    (tmp_path / "shared_by_threads.py").write_text(FACTORY)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)).eval()
    torch.save(plain.state_dict(), tmp_path / "m.pt")
    arch, image = f"{tmp_path}/shared_by_threads.py:make", torch.rand(3, 32, 40)
    shared, call = load_model(tmp_path / "m.safetensors"), nn.Module.__call__
    own = QualityModel(plain, Preprocessing(size=(32, 40))).eval()
    wanted = [own.score(image), shared.score(image)]
    opening = Opening(arch=arch, input_size=(32, 40), leaf=("0",))

    def work(number: int) -> tuple[float, float]:
        if number % 4 == 0:  # a leaf is checked by tracing
            return load_model(tmp_path / "m.pt", opening=opening).score(image), shared.score(image)
        if number % 4 == 1:
            trace(plain, torch.zeros(1, 3, 32, 40))
        return own.score(image), load_model(tmp_path / "m.safetensors").score(image)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(48)))
    assert all(each == pytest.approx(wanted, rel=1e-5) for each in found)
    assert nn.Module.__call__ is call
