"""The three orthogonal convolutions: norms, caching, copies and refusals."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from iqa_armor.ortho import BACKENDS, AolConv2d, OrthogonalConv2d, singular_values

SIZES = [(6, 6), (5, 7), (2, 3), (1, 1), (1, 8)]
NORM_TOLERANCE = 1e-4


def make(backend: str, in_channels: int = 6, out_channels: int = 12, kernel_size: int = 3) -> OrthogonalConv2d:
    torch.manual_seed(0)
    return BACKENDS[backend](in_channels, out_channels, kernel_size)  # type: ignore[index]


def train(layer: nn.Module, *, channels: int, outputs: int, steps: int = 20, rate: float = 1e-2) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, channels, 5, 4, generator=generator) + 0.5
    target = 2 * torch.randn(2, outputs, 5, 4, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        ((layer(maps) - target) ** 2).mean().backward()
        optimizer.step()


def assert_norms(layer: OrthogonalConv2d, size: tuple[int, int]) -> None:
    values = singular_values(layer, channels=layer.in_channels, size=size)
    assert len(values) == size[0] * size[1] * layer.in_channels
    assert values[0] <= 1 + NORM_TOLERANCE
    if not isinstance(layer, AolConv2d):
        assert values[-1] >= 1 - NORM_TOLERANCE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_singular_values_at_the_start(backend: str, size: tuple[int, int]) -> None:
    layer = make(backend)
    assert_norms(layer, size)
    assert singular_values(layer, channels=6, size=size)[-1] >= 1 - NORM_TOLERANCE  # AOL too starts orthogonal
    assert_norms(layer.eval(), size)


@pytest.mark.parametrize(("inputs", "outputs", "kernel_size"), [(1, 1, 3), (1, 3, 3), (7, 15, 3), (5, 5, 5), (3, 8, 1)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_singular_values_after_training(backend: str, inputs: int, outputs: int, kernel_size: int) -> None:
    layer = make(backend, inputs, outputs, kernel_size)
    before = copy.deepcopy(layer.state_dict())
    train(layer, channels=inputs, outputs=outputs)
    assert any(
        not torch.equal(before[name], value) for name, value in layer.state_dict().items() if name != "bias"
    ) or (
        outputs == 1  # a 1 → 1 orthogonal map has only its sign and, with AOC, nothing to learn
    )
    for size in SIZES:
        assert_norms(layer, size)
    assert_norms(layer.eval(), (5, 7))


@pytest.mark.parametrize("backend", BACKENDS)
def test_distances_are_kept_or_shrink(backend: str) -> None:
    layer = make(backend)
    first, second = torch.randn(2, 3, 6, 5, 8)
    ratio = (layer(first) - layer(second)).norm() / (first - second).norm()
    torch.testing.assert_close(ratio, torch.tensor(1.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eval_gives_the_same_bits_twice_and_the_values_of_training(backend: str) -> None:
    layer = make(backend)
    maps = torch.randn(3, 6, 7, 4)
    trained = layer(maps)
    layer.eval()
    with torch.no_grad():
        first, second = layer(maps), layer(maps)
    assert torch.equal(first, second)
    assert layer.cache.held_bytes > 0
    torch.testing.assert_close(first, trained.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_and_sizes_may_change_between_calls(backend: str) -> None:
    layer = make(backend).eval()
    maps = torch.randn(4, 6, 6, 6)
    with torch.no_grad():
        whole = layer(maps)
        assert layer(torch.randn(2, 6, 3, 9)).shape == (2, 12, 3, 9)
        torch.testing.assert_close(layer(maps[:1]), whole[:1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_the_solve_in_float32(backend: str) -> None:
    layer = make(backend)
    maps = torch.randn(2, 6, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(maps.bfloat16())
    low.float().sum().backward()
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(maps), atol=0.05, rtol=0.05)
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_modules_run(backend: str) -> None:
    layer = make(backend).bfloat16().eval()
    with torch.no_grad():
        output = layer(torch.randn(1, 6, 4, 4, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_survives_copy_pickle_and_safetensors(backend: str, tmp_path: Path) -> None:
    layer = make(backend).eval()
    maps = torch.randn(2, 6, 5, 5)
    with torch.no_grad():
        expected = layer(maps)
        assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}
        save_file(layer.state_dict(), tmp_path / "layer.safetensors")
        loaded = type(layer)(6, 12).eval()
        loaded.load_state_dict(load_file(tmp_path / "layer.safetensors"), strict=True)
        pickled = pickle.loads(pickle.dumps(layer))
        for twin in (loaded, copy.deepcopy(layer), pickled):
            assert twin.cache.held_bytes == 0
            assert twin.cache is not layer.cache
            assert torch.equal(twin(maps), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pickle_holds_no_cache(backend: str) -> None:
    layer, full = make(backend).eval(), make(backend).eval()
    with torch.no_grad():
        full(torch.randn(1, 6, 16, 16))
    sizes = []
    for module in (layer, full):
        buffer = io.BytesIO()
        torch.save(module, buffer)
        sizes.append(buffer.tell())
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_build_on_the_meta_device(backend: str) -> None:
    with torch.device("meta"):
        layer = BACKENDS[backend](32, 64)  # type: ignore[index]
    assert all(parameter.is_meta for parameter in layer.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("sizes", "message"), [((4, 3), "in_channels ≤ out_channels"), ((0, 3), "in_channels"), ((2, 4, 2), "odd")]
)
def test_impossible_sizes_are_refused(backend: str, sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BACKENDS[backend](*sizes)  # type: ignore[index]
