"""Exactness of what is orthogonal: products in float32 whatever the process allows, angles in float64, kept grids."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from iqa_armor.ortho import BACKENDS, spectrum
from iqa_armor.ortho.cayley import CayleyConv2d
from iqa_armor.ortho.lanczos import extreme_gains
from iqa_armor.ortho.lipschitz import singular_values
from iqa_armor.ortho.precision import exact_products
from iqa_armor.ortho.spectrum import grid_of, waves

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SWITCHES = {
    "cuda": (torch.backends.cuda.matmul, torch.backends.cudnn.conv),
    "cpu": (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv),
}


def precisions(kind: str) -> list[str]:
    return [switch.fp32_precision for switch in SWITCHES[kind]]


@pytest.fixture
def rounding() -> Iterator[None]:
    """Allow every product to round its numbers first, as a script does that wants speed."""
    before = {kind: precisions(kind) for kind in SWITCHES}
    for kind, low in (("cuda", "tf32"), ("cpu", "bf16")):
        for switch in SWITCHES[kind]:
            switch.fp32_precision = low
    yield
    for kind, switches in SWITCHES.items():
        for switch, precision in zip(switches, before[kind], strict=True):
            switch.fp32_precision = precision


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize(("device", "low"), [(CPU, "bf16"), (CUDA, "tf32")])
def test_rounding_is_off_inside_and_restored(device: torch.device, low: str) -> None:
    with exact_products(device):
        assert precisions(device.type) == ["ieee", "ieee"]
        with exact_products(device):
            pass
        assert precisions(device.type) == ["ieee", "ieee"]
    assert precisions(device.type) == [low, low]
    with pytest.raises(KeyError), exact_products(device):
        raise KeyError
    assert precisions(device.type) == [low, low]


@pytest.mark.usefixtures("rounding")
def test_rounding_is_off_until_the_last_thread_leaves() -> None:
    def work(_: int) -> set[str]:
        seen = set()
        for _ in range(200):
            with exact_products(CPU):
                seen.update(precisions("cpu"))
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert set().union(*pool.map(work, range(8))) == {"ieee"}
    assert precisions("cpu") == ["bf16", "bf16"]


def test_exact_switches_are_left_alone() -> None:
    before = precisions("cpu")
    with exact_products(CPU):
        assert precisions("cpu") == before
    with exact_products(torch.device("meta")):
        pass


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_hold_where_rounding_is_allowed(backend: str) -> None:  # seen on processors that multiply in bfloat16
    torch.manual_seed(0)
    layer = BACKENDS[backend](64, 128)
    for _ in range(2):
        values = singular_values(layer, channels=64, size=(8, 8))
        assert layer.contains(values, tolerance=1e-5)
        layer.eval()
    gains = extreme_gains(layer, torch.zeros(1, 64, 8, 8), with_smallest=True)
    assert (gains.largest, gains.smallest) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_hold_on_cuda_where_tf32_is_allowed(backend: str) -> None:
    torch.manual_seed(0)
    layer = BACKENDS[backend](64, 128).to("cuda").eval()
    assert layer.contains(singular_values(layer, channels=64, size=(8, 8)), tolerance=1e-5)
    assert precisions("cuda") == ["tf32", "tf32"]


@pytest.mark.parametrize(("height", "width"), [(7, 5), (6, 9), (3, 14), (1, 1), (2, 1)])
@pytest.mark.parametrize("reach", [1, 2, 4])
def test_waves_are_exact(height: int, width: int, reach: int) -> None:
    grid = grid_of(height, width, CPU)
    places = [divmod(int(entry), width // 2 + 1) for entry in grid.kept]
    offsets = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
    expected = [
        [2 * math.pi * ((row * down % height) / height + (column * right % width) / width) for down, right in offsets]
        for row, column in places
    ]
    angles = torch.tensor(expected, dtype=torch.float64)[:, : (len(offsets) + 1) // 2]
    for found, wanted in zip(waves(grid, reach, torch.float64), (angles.cos(), angles.sin()), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(7, 5), (6, 9), (4, 6), (1, 1), (2, 1), (1, 2), (3, 2)])
def test_kept_frequencies_determine_all_others(height: int, width: int) -> None:
    grid = grid_of(height, width, CPU)
    independent = {  # of a frequency and its conjugate one
        min((row, column), (-row % height, -column % width)) for row in range(height) for column in range(width)
    }
    assert len(grid.kept) == len(independent)
    maps = torch.randn(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(grid.inverse(grid.forward(maps)), maps, rtol=0, atol=1e-14)


def test_the_grid_is_made_once_per_size_device_and_type() -> None:
    before = spectrum._kept_waves.cache_info().misses
    layer = CayleyConv2d(3, 6)
    for dtype in (torch.float32, torch.float64, torch.float32):
        for _ in range(3):  # training steps
            layer.to(dtype)(torch.randn(1, 3, 11, 13, dtype=dtype)).sum().backward()
    assert spectrum._kept_waves.cache_info().misses == before + 2
    assert grid_of(11, 13, CPU) is grid_of(11, 13, CPU)


def test_a_grid_first_seen_without_gradients_or_values_serves_training() -> None:
    from torch._subclasses import FakeTensorMode

    layer = CayleyConv2d(3, 6)
    with FakeTensorMode(allow_non_fake_inputs=True):
        layer(torch.randn(1, 3, 17, 19))
    with torch.inference_mode():
        layer(torch.randn(1, 3, 17, 19))
    layer(torch.randn(1, 3, 17, 19)).sum().backward()
    assert layer.weight.grad is not None
