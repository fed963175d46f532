"""Devices and threads are decided in one place."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from iqa_armor import machine, save_model
from iqa_armor.cli import app
from iqa_armor.errors import ModelLoadError, UsageError
from iqa_armor.models.base import QualityModel

MakeModel = Callable[..., QualityModel]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("word", ["auto", "cpu"])
def test_without_cuda_it_is_the_processor(word: str) -> None:
    assert machine.choose_device(word) == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("word", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_cuda_devices_by_number(word: str, index: int) -> None:
    assert machine.choose_device(word) == torch.device("cuda", index)


@pytest.mark.usefixtures("two_gpus")
def test_each_process_of_a_launcher_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert machine.choose_device("auto") == torch.device("cuda", 1)
    assert machine.choose_device("cuda:0") == torch.device("cuda", 0)
    assert machine.choose_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("word", ["mps", "xpu", "cuda:2", "cuda:", "cuda:²", "CUDA", "", "cpu:0", "cuda:-1"])
def test_devices_that_are_not_there(word: str) -> None:
    with pytest.raises(UsageError, match="there is no device"):
        machine.choose_device(word)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("word", ["cuda", "cuda:0"])
def test_cuda_where_there_is_none(word: str) -> None:
    with pytest.raises(UsageError, match="there is no CUDA device here"):
        machine.choose_device(word)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_quota_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], quota: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_own_cgroups", list)
    assert machine._quota() == quota


@pytest.mark.parametrize(("quota", "processors"), [(None, 8), (1.5, 2), (0.1, 1), (64.0, 8), (3.2, 3)])
def test_processors_are_those_that_may_be_kept_busy(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, processors: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_quota", lambda: quota)
    assert machine.usable_processors() == processors


VARIABLE = "os.environ['OMP_NUM_THREADS']"


def threads_of(
    count: int | None, environment: dict[str, str], *, said_by: str = "torch.get_num_threads()"
) -> list[str]:
    code = (
        "import os, sys; from iqa_armor.machine import prepare_threads; "
        f"prepare_threads({count}); assert 'torch' not in sys.modules; {'import torch; ' * ('torch' in said_by)}"
        f"print({said_by}, os.environ['OMP_WAIT_POLICY'])"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_threads_asked_for_win_over_the_environment() -> None:
    assert threads_of(1, {"OMP_NUM_THREADS": "2"}) == ["1", "PASSIVE"]  # torch heeds the variable
    assert threads_of(1, {"OMP_NUM_THREADS": "2"}, said_by=VARIABLE) == ["1", "PASSIVE"]


def test_the_environment_wins_over_the_default() -> None:
    assert threads_of(None, {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "ACTIVE"}, said_by=VARIABLE) == ["1", "ACTIVE"]


def test_the_default_is_what_may_be_kept_busy() -> None:
    assert threads_of(None, {}, said_by=VARIABLE) == [str(machine.usable_processors()), "PASSIVE"]


@pytest.mark.parametrize(
    ("said", "spins"), [({}, machine.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_idle_threads_spin_shortly_unless_the_environment_says_how_they_wait(said: dict[str, str], spins: str) -> None:
    assert threads_of(None, said, said_by="os.environ.get('GOMP_SPINCOUNT')")[0] == spins


def test_no_threads_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        machine.prepare_threads(0)


@pytest.mark.parametrize(
    ("said", "size"), [("6G", 6 * 2**30), ("500 MiB", 500 * 2**20), ("1.5gb", 3 * 2**29), ("70000000", 70_000_000)]
)
def test_the_memory_limit_is_what_was_said(said: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.MEMORY_VARIABLE, "")
    assert 2**26 < machine.memory_limit() < 2**50  # a share of this machine's
    machine.prepare_memory(said)
    machine.prepare_memory(None)
    assert machine.memory_limit() == size


@pytest.mark.parametrize("said", ["", "6X", "-1G", "nan", "1M", "9" * 5000])
def test_sizes_that_are_none_are_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--max-memory takes a size such as 6G"):
        machine.prepare_memory(said)
    monkeypatch.setenv(machine.MEMORY_VARIABLE, said or "x")
    with pytest.raises(UsageError, match="so does IQA_ARMOR_MAX_MEMORY; it is"):
        machine.memory_limit()


def test_maps_lie_with_channels_last_where_told(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.LAYOUT_VARIABLE, "")
    model, seen = make_model(), []
    next(each for each in model.network.modules() if isinstance(each, nn.Conv2d)).register_forward_pre_hook(
        lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    before = model(images)
    machine.prepare_layout(channels_last=False)
    model(images)
    machine.prepare_layout(channels_last=True)
    assert torch.allclose(model(images), before, atol=1e-5)
    assert seen == [False, False, True]
    machine.prepare_layout(channels_last=False)  # keeps what the environment says
    assert machine.has_channels_last()


def test_a_network_that_needs_another_layout_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Viewing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.view(len(images), -1).mean(1)

    model, images = QualityModel(Viewing()).eval(), torch.rand(2, 3, 8, 8)
    assert model(images).shape == (2,)
    monkeypatch.setenv(machine.LAYOUT_VARIABLE, "1")
    with pytest.raises(ModelLoadError, match="without --channels-last it may serve as it is"):
        model(images)


def test_commands_take_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: MakeModel) -> None:
    monkeypatch.setenv(machine.LAYOUT_VARIABLE, "")
    save_model(make_model(), tmp_path / "m.safetensors", recipe={}, provenance={})
    Image.new("RGB", (70, 60), (90, 120, 30)).save(tmp_path / "a.png")
    call = ["score", str(tmp_path / "m.safetensors"), str(tmp_path / "a.png"), "--json"]
    scores = []
    for more in ([], ["--channels-last"]):
        done = CliRunner().invoke(app, [*call, *more])
        assert done.exit_code == 0, done.output
        assert machine.has_channels_last() == bool(more)
        scores.append(json.loads(done.stdout)["images"][0]["score"])
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
