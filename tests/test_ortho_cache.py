"""What eval mode keeps: never stale, bounded, and of use to an attack."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.cache import DerivedCache
from iqa_armor.ortho.layer import OrthogonalConv2d


def make(backend: str) -> OrthogonalConv2d:
    torch.manual_seed(0)
    return BACKENDS[backend](6, 12)  # type: ignore[index]


def in_place(layer: OrthogonalConv2d) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def reload(layer: OrthogonalConv2d) -> None:
    torch.manual_seed(5)
    layer.load_state_dict(type(layer)(6, 12).state_dict())


def reassign(layer: OrthogonalConv2d) -> None:
    torch.manual_seed(6)
    layer.load_state_dict(type(layer)(6, 12).state_dict(), assign=True)


def train_a_step(layer: OrthogonalConv2d) -> None:
    layer.train()
    with torch.enable_grad():
        layer(torch.randn(2, 6, 5, 4)).cos().mean().backward()
    torch.optim.Adam(layer.parameters(), lr=0.1).step()
    layer.eval()


@pytest.mark.parametrize("change", [in_place, reload, reassign, train_a_step])
@pytest.mark.parametrize("backend", BACKENDS)
def test_cache_is_never_stale(backend: str, change: object) -> None:
    layer = make(backend).eval()
    maps = torch.randn(2, 6, 5, 5)
    with torch.no_grad():
        before = layer(maps)
        change(layer)  # type: ignore[operator]
        after = layer(maps)
        fresh = type(layer)(6, 12).eval()
        fresh.load_state_dict(layer.state_dict())
        assert not torch.allclose(before, after, atol=1e-3)
        assert torch.equal(after, fresh(maps))


@pytest.mark.parametrize(
    "drop", [lambda layer: layer.train(), lambda layer: layer.double(), lambda layer: reload(layer)]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_cache_is_dropped(backend: str, drop: object) -> None:
    layer = make(backend).eval()
    with torch.no_grad():
        layer(torch.randn(1, 6, 4, 4))
    assert layer.cache.held_bytes > 0
    drop(layer)  # type: ignore[operator]
    assert layer.cache.held_bytes == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_value_over_the_limit_is_not_kept(backend: str) -> None:
    layer = make(backend).eval()
    maps = torch.randn(1, 6, 4, 4)
    with torch.no_grad():
        expected = layer(maps)
        layer.cache.clear()
        layer.cache.limit = 8
        assert torch.equal(layer(maps), expected)
    assert layer.cache.held_bytes == 0


def test_cayley_cache_stays_within_its_limit_over_many_sizes() -> None:
    layer = make("cayley").eval()
    layer.cache.limit = 20_000
    with torch.no_grad():
        for size in range(1, 9):
            layer(torch.randn(1, 6, size, size))
    assert 0 < layer.cache.held_bytes <= 20_000


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_input_gradients_in_eval_equal_those_in_training(backend: str, frozen: bool) -> None:
    layer = make(backend).requires_grad_(not frozen)
    maps, weights = torch.randn(2, 6, 5, 6), torch.randn(2, 12, 5, 6)

    def gradients() -> list[Tensor]:
        point = maps.clone().requires_grad_()
        wanted = [point, *(parameter for parameter in layer.parameters() if not frozen)]
        return list(torch.autograd.grad((layer(point) * weights).sum(), wanted))

    expected = gradients()
    layer.eval()
    with torch.inference_mode():
        layer(maps)  # a cache filled here must still serve an attack
    for found in (gradients(), gradients()):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads interrupt one another as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_eight_threads_share_a_cache_that_drives_values_out() -> None:
    cache, parameters = DerivedCache(limit=3), (torch.zeros(1),)

    def hammer(start: int) -> bool:
        keys = [i * 7 % 5 for i in range(start, start + 2000)]
        bytes_of = {key: torch.tensor(key, dtype=torch.uint8) for key in keys}
        return all(cache.get(key, parameters, lambda key=key: bytes_of[key]) == key for key in keys)  # type: ignore[misc]

    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(hammer, range(8)))
        cache.clear()
    assert cache.held_bytes == 0


def test_threads_that_miss_together_build_once() -> None:
    cache, parameters, built = DerivedCache(), (torch.zeros(1),), []

    def build() -> Tensor:
        built.append(1)
        sum(range(200_000))
        return torch.tensor(7)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: int(cache.get("key", parameters, build)), range(32))) == {7}
    assert len(built) == 1
