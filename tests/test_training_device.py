"""A fit computes where it is told to, and leaves the process as it was: Accelerate, generators, environment."""

from __future__ import annotations

import os
import random

import accelerate.state
import numpy as np
import pytest
import torch
import torch._dynamo  # looks at the functions that `apple` replaces, once and for all
from accelerate import Accelerator
from conftest import CPU
from test_training import fit_small, settings
from torch import nn

from iqa_armor.errors import UsageError
from iqa_armor.machine import choose_device, is_main_process
from iqa_armor.randomness import seeded
from iqa_armor.training import fit as fitting
from iqa_armor.training.accelerator import accelerator_on


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this machine look like one whose default accelerator is Metal."""
    monkeypatch.setattr(accelerate.state, "is_mps_available", lambda *_: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.usefixtures("apple")
@pytest.mark.parametrize("variables", [{}, {"ACCELERATE_TORCH_DEVICE": "mps"}, {"ACCELERATE_USE_CPU": "false"}])
def test_auto_fits_on_the_processor_where_metal_is_available(
    make_model, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with accelerator_on(choose_device("auto"), precision="no") as accelerator:
        assert accelerator.device == CPU
    model = make_model()
    fit_small(model, settings(epochs=1), device=choose_device("auto"))
    assert model.mean.device == CPU
    assert dict(os.environ) == before


@pytest.mark.parametrize("variables", [{}, {"ACCELERATE_USE_CPU": "true"}, {"ACCELERATE_TORCH_DEVICE": "cuda:0"}])
def test_accelerate_takes_the_cuda_device_of_that_number(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with accelerator_on(torch.device("cuda", 3), precision="no") as accelerator:
        assert accelerator.device == torch.device("cuda", 3)


def test_processes_of_a_launcher_are_refused(make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"has started 2 processes.*without torchrun"):
        fit_small(make_model(), settings(epochs=1))
    monkeypatch.setenv("WORLD_SIZE", "1")  # a launcher of one process
    assert fit_small(make_model(), settings(epochs=1)).best == 1


@pytest.mark.parametrize(
    ("rank", "count", "writes"),
    [("", "2", True), ("0", "2", True), ("1", "2", False), ("1", "1", True), ("1", "", True)],
)
def test_the_first_process_writes(monkeypatch: pytest.MonkeyPatch, rank: str, count: str, writes: bool) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", count)):
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    assert is_main_process() is writes


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("RANK", ""), ("WORLD_SIZE", "-1"), ("WORLD_SIZE", "two")])
def test_what_no_launcher_says_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"RANK and WORLD_SIZE to numbers, but they are .*{value!r}"):
        is_main_process()


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_caller_keeps_its_own_accelerator(make_model, monkeypatch: pytest.MonkeyPatch, precision: str, fails) -> None:
    mine = Accelerator(cpu=True, mixed_precision="no", gradient_accumulation_steps=3)
    network, optimizer = mine.prepare(nn.Linear(2, 1), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
    state = dict(vars(mine.state))
    model = make_model()
    if fails:
        monkeypatch.setattr(fitting, "predict", _stop)
        with pytest.raises(_Stopped):
            fit_small(model, settings(epochs=1, precision=precision))
    else:
        fit_small(model, settings(epochs=1, precision=precision))
    assert vars(mine.state) == state
    assert (mine.mixed_precision, mine.gradient_accumulation_steps) == ("no", 3)
    assert accelerate.state.AcceleratorState().mixed_precision == "no"
    mine.backward(network(torch.ones(1, 2)).sum())
    optimizer.step()
    assert Accelerator(cpu=True).device == mine.device


class _Stopped(Exception):
    pass


def _stop(*_: object, **__: object) -> None:
    raise _Stopped


def test_a_caller_keeps_its_random_numbers(make_model) -> None:
    torch.manual_seed(11)
    before, numbers, plain = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    model = make_model()
    model.network.insert(-1, nn.Dropout(0.5))
    fit_small(model, settings(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numbers)
    assert random.getstate() == plain


def test_what_is_drawn_does_not_depend_on_the_caller(make_model) -> None:
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = make_model()
        model.network.insert(-1, nn.Dropout(0.5))
        fit_small(model, settings(epochs=1))
        weights.append(model.network[0].weight.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize("count", [1, 2])
def test_half_precision_is_used_in_every_fit_of_one_model(make_model, count: int) -> None:
    model = make_model()
    types = set()
    model.network[0].register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    for _ in range(count):
        types.clear()
        fit_small(model, settings(epochs=1, precision="bf16"))
        assert torch.bfloat16 in types
    types.clear()
    model(torch.rand(1, 3, 32, 40))
    assert types == {torch.float32}
    assert not {"forward", "_original_forward", "_is_accelerate_prepared"} & vars(model).keys()


def test_seeded_draws_as_manual_seed_does_and_restores() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    with seeded(3):
        assert torch.equal(torch.rand(4), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeding_for_the_processor_reaches_no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", _stop)
    monkeypatch.setattr(torch.cuda, "manual_seed", _stop)
    with seeded(0):
        torch.rand(2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_caller_keeps_its_random_numbers_on_cuda(make_model) -> None:
    device = choose_device("cuda")
    before = torch.cuda.get_rng_state(device)
    model = make_model()
    model.network.insert(-1, nn.Dropout(0.5))
    fit_small(model, settings(epochs=1), device=device)
    assert model.mean.device == device
    assert torch.equal(torch.cuda.get_rng_state(device), before)
