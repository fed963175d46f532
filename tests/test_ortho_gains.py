"""Extreme gains by Lanczos' method against matrices written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.aol import AolConv2d
from iqa_armor.ortho.lanczos import extreme_gains
from iqa_armor.ortho.lipschitz import singular_values


def matrix_of(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    basis = torch.eye(torch.Size(shape).numel()).view(-1, *shape)
    with torch.no_grad():
        return (layer(basis) - layer(torch.zeros_like(basis[:1]))).flatten(1).T.double()


@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"groups": 2}, {"padding": 1, "padding_mode": "circular"}])
def test_largest_gain_of_a_convolution(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, **settings)  # type: ignore[arg-type]
    found = extreme_gains(layer, torch.zeros(1, 4, 7, 8))
    expected = float(torch.linalg.svdvals(matrix_of(layer, (4, 7, 8)))[0])
    assert found.largest == pytest.approx(expected, rel=1e-4)
    assert found.smallest is None


def test_both_ends_of_a_known_matrix_and_nothing_else_is_needed() -> None:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([0.5, 3.0, 1.0])))
    found = extreme_gains(layer, torch.zeros(1, 3), with_smallest=True)
    assert (found.largest, found.smallest) == (pytest.approx(3, rel=1e-5), pytest.approx(0.5, rel=1e-5))
    assert found.steps <= 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_orthogonal_layers_have_gains_of_one(backend: str) -> None:
    torch.manual_seed(0)
    layer = BACKENDS[backend](6, 12).eval()  # type: ignore[index]
    found = extreme_gains(layer, torch.zeros(1, 6, 8, 9), with_smallest=True)
    assert found.largest == pytest.approx(1, abs=1e-4)
    assert found.smallest == pytest.approx(1, abs=1e-4)


def test_agrees_with_every_frequency_where_layers_shrink() -> None:
    torch.manual_seed(0)
    layer = AolConv2d(8, 16).eval().requires_grad_(False)
    layer.weight.add_(0.05 * torch.randn_like(layer.weight))
    values = singular_values(layer, channels=8, size=(6, 7))
    found = extreme_gains(layer, torch.zeros(1, 8, 6, 7), with_smallest=True, max_steps=150)
    assert found.largest == pytest.approx(float(values[0]), rel=1e-4)
    assert found.smallest == pytest.approx(float(values[-1]), rel=1e-3)


def test_one_frequency_that_is_not_orthogonal_is_found() -> None:
    class Lifted(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps + 0.1 * maps.mean((2, 3), keepdim=True)  # 1.1 at frequency zero, 1 elsewhere

    found = extreme_gains(Lifted(), torch.zeros(1, 4, 64, 64), with_smallest=True)
    assert found.largest == pytest.approx(1.1, abs=1e-3)
    assert found.smallest == pytest.approx(1, abs=1e-3)


def test_zero_layer_and_parameters_stay_as_they_are() -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert extreme_gains(layer, torch.zeros(1, 3)).largest == 0
    assert layer.weight.grad is None


@pytest.mark.parametrize("settings", [{"tolerance": 0.0}, {"max_steps": 0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        extreme_gains(nn.Linear(2, 2), torch.zeros(1, 2), **settings)  # type: ignore[arg-type]
