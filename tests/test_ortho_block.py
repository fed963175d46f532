"""The RobustBlock: shapes, identity initialization, round trips and refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.aol import AolConv2d
from iqa_armor.ortho.block import RobustBlock, initialize_identity, pool_square, principal_directions
from iqa_armor.ortho.lipschitz import singular_values


def make(channels: int, backend: str, pool: str = "none") -> RobustBlock:
    torch.manual_seed(0)
    return RobustBlock(channels, backend=backend, pool=pool)  # type: ignore[arg-type]


def features_of(channels: int, *, count: int = 4, size: tuple[int, int] = (5, 6)) -> Tensor:
    """Positive correlated maps, as behind a ReLU, with a mean of their own per channel."""
    generator = torch.Generator().manual_seed(channels)
    mixing = torch.randn(channels, channels, generator=generator)
    maps = torch.einsum("cd,ndhw->nchw", mixing, torch.randn(count, channels, *size, generator=generator))
    return (maps + torch.arange(channels).view(-1, 1, 1)).relu()


def projection(features: Tensor, count: int) -> Tensor:
    directions, mean = principal_directions(features, count)
    centered = features.movedim(1, -1).double() - mean
    return (centered @ directions @ directions.T + mean).movedim(-1, 1)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("pool", "expected"), [("square", (2, 7, 4, 4)), ("none", (2, 7, 4, 9))])
@pytest.mark.parametrize("backend", BACKENDS)
def test_pooling_makes_maps_square(backend: str, pool: str, expected: tuple[int, ...]) -> None:
    assert make(7, backend, pool)(torch.randn(2, 7, 4, 9)).shape == expected


def test_square_pooling_averages() -> None:
    block, features = make(6, "aoc", "square"), torch.randn(1, 6, 2, 4)
    averaged = features.unflatten(3, (2, 2)).mean(4)
    torch.testing.assert_close(block(features), block(averaged))


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_block_keeps_the_mean_energy(backend: str) -> None:
    features = torch.randn(8, 32, 6, 6)
    ratio = make(32, backend)(features).norm() / features.norm()
    assert 0.9 < ratio < 1.1


@pytest.mark.parametrize("channels", [2, 3, 8, 13])
@pytest.mark.parametrize("backend", BACKENDS)
def test_identity_initialization_is_the_principal_projection(backend: str, channels: int) -> None:
    features = features_of(channels)
    block = make(channels, backend)
    initialize_identity(block, features)
    expected = projection(features, channels // 2)
    assert relative_error(block(features), expected) < 1e-5
    assert relative_error(block.eval()(features), expected) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_identity_initialization_holds_under_square_pooling_of_square_maps(backend: str) -> None:
    features = features_of(10, size=(4, 4))
    block = make(10, backend, "square")
    initialize_identity(block, features)
    assert relative_error(block(features), projection(features, 5)) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_identity_initialization_stands_dead_channels_and_few_samples(backend: str) -> None:
    features = features_of(12, count=1, size=(1, 2))
    features[:, 3:9] = 0
    block = make(12, backend)
    initialize_identity(block, features)
    assert relative_error(block(features), features.double()) < 1e-5


@pytest.mark.parametrize("channels", [61, 115, 230])  # what pruning leaves of 64, 128 and 256, odd ones too
@pytest.mark.parametrize("backend", BACKENDS)
def test_identity_initialization_is_exact_at_pruned_widths(backend: str, channels: int) -> None:
    features = features_of(channels)
    block = make(channels, backend)
    initialize_identity(block, features)
    with torch.no_grad():
        assert relative_error(block(features), projection(features, channels // 2)) < 1e-5


@pytest.mark.parametrize("kept", range(1, 8))
@pytest.mark.parametrize("backend", BACKENDS)
def test_identity_initialization_is_exact_for_any_number_of_directions(backend: str, kept: int) -> None:
    features = features_of(7)
    block = make(7, backend)
    block.reduction = nn.Conv2d(7, kept, 1)
    block.orthogonal = BACKENDS[backend](kept, 7)  # type: ignore[index]
    initialize_identity(block, features)
    expected = features.double() if kept == 7 else projection(features, kept)
    assert relative_error(block(features), expected) < 1e-5


def rank_one(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 5 + torch.randn(3, 1, 4, 4, generator=generator) * torch.randn(channels, 1, 1, generator=generator)


def only_last(channels: int) -> Tensor:
    maps = features_of(channels, size=(4, 4))
    maps[:, : channels - channels // 2] = 0
    return maps


@pytest.mark.parametrize(
    "features_like",
    [
        rank_one,
        only_last,  # the top square of the directions is zero
        lambda channels: torch.full((2, channels, 3, 3), 3.0),
        lambda channels: features_of(channels, count=1, size=(1, 1)),
        lambda channels: 1e6 * features_of(channels, count=1, size=(1, 2)),
    ],
    ids=["rank one", "only the last channels", "constant", "one sample", "large"],
)
@pytest.mark.parametrize("channels", [2, 3, 13, 40])
@pytest.mark.parametrize("backend", BACKENDS)
def test_identity_initialization_loses_nothing_of_low_rank(
    backend: str, channels: int, features_like: Callable[[int], Tensor]
) -> None:
    features = features_like(channels)
    block = make(channels, backend)
    initialize_identity(block, features)
    assert relative_error(block(features), features.double()) < 1e-5
    assert relative_error(block.eval()(features), features.double()) < 1e-5


@pytest.mark.parametrize("channels", [8, 9])
@pytest.mark.parametrize("backend", BACKENDS)
def test_identity_block_trains_on_with_its_norms(backend: str, channels: int) -> None:
    features = features_of(channels)
    block = make(channels, backend)
    initialize_identity(block, features)
    before = copy.deepcopy(block.state_dict())
    optimizer = torch.optim.Adam(block.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        (block(features).roll(1, 2) * features.cos()).mean().backward()
        optimizer.step()
    after = block.state_dict()
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    values = singular_values(block.orthogonal, channels=channels // 2, size=(5, 6))
    assert values[0] <= 1 + 1e-4
    assert isinstance(block.orthogonal, AolConv2d) or values[-1] >= 1 - 1e-4


def test_principal_directions_by_hand() -> None:
    # Two channels that move together around (1, 2): the direction is (1, 1)/√2.
    features = torch.tensor([[[[0.0, 2.0]], [[1.0, 3.0]]]])
    directions, mean = principal_directions(features, 1)
    torch.testing.assert_close(mean, torch.tensor([1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(directions.abs(), torch.full((2, 1), 0.5, dtype=torch.float64).sqrt())


@pytest.mark.parametrize("pool", ["square", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_block_is_rebuilt_from_its_config_and_state(backend: str, pool: str) -> None:
    block = make(9, backend, pool).eval()
    features = torch.randn(2, 9, 4, 6)
    config = {"channels": 9, "backend": backend, "pool": pool}
    with torch.no_grad():
        expected = block(features)
        with torch.device("meta"):
            rebuilt = RobustBlock(**config).eval()
        rebuilt.load_state_dict(load(save(block.state_dict())), strict=True, assign=True)
        for twin in (rebuilt, copy.deepcopy(block)):
            assert torch.equal(twin(features), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_is_plain_contiguous_and_unshared(backend: str) -> None:
    block = make(9, backend)
    tensors = block.state_dict()
    assert set(tensors) == {name for name, _ in block.named_parameters()}
    assert all(value.is_contiguous() for value in tensors.values())
    assert len({value.untyped_storage().data_ptr() for value in tensors.values()}) == len(tensors)


def test_block_names_its_settings() -> None:
    assert "8, backend='aol', pool='none'" in repr(make(8, "aol"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 1}, "at least 2, got 1"),
        ({"channels": 8, "backend": "bcop"}, "backend must be one of cayley, aoc, aol, got 'bcop'"),
        ({"channels": 8, "pool": "max"}, "pool must be one of square, none, got 'max'"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobustBlock(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(7, 10), (10, 7), (1, 9), (31, 42), (6, 6), (64, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_square_pooling_is_adaptive_average_pooling(size: tuple[int, int], dtype: torch.dtype) -> None:
    maps = torch.randn(2, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(1))
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    found, expected = pool_square(ours), functional.adaptive_avg_pool2d(theirs, min(size))
    torch.testing.assert_close(found, expected)
    target = torch.randn_like(found)
    found.backward(target)
    expected.backward(target)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 7, 4, 4), r"takes features \(N, 8, H, W\), got \(2, 7, 4, 4\)"),
        ((8, 4, 4), r"takes features \(N, 8, H, W\), got \(8, 4, 4\)"),
        ((0, 8, 4, 4), "at least one image"),
        ((2, 8, 0, 4), "at least one image and one pixel"),
    ],
)
def test_wrong_features_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(8, "aoc")(torch.zeros(shape))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(2, 7, 3, 3), r"must be \(N, 8, H, W\)"),
        (torch.zeros(0, 8, 3, 3), r"must be \(N, 8, H, W\)"),
        (torch.full((1, 8, 2, 2), float("nan")), "must be finite"),
    ],
)
def test_identity_initialization_refuses_unusable_features(features: Tensor, message: str) -> None:
    block = make(8, "cayley")
    before = copy.deepcopy(block.state_dict())
    with pytest.raises(ValueError, match=message):
        initialize_identity(block, features)
    assert all(torch.equal(before[name], value) for name, value in block.state_dict().items())
