"""Measured singular values against matrices written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from iqa_armor.ortho import CayleyConv2d, largest_singular_value, singular_values


def circular(inputs: int, outputs: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")


def dense(module: nn.Module, channels: int, size: tuple[int, int]) -> torch.Tensor:
    """Return the operator as one matrix, column by column."""
    count = channels * size[0] * size[1]
    basis = torch.eye(count).view(count, channels, *size)
    with torch.no_grad():
        return (module(basis) - module(torch.zeros_like(basis[:1]))).flatten(1).T.double()


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 3), (3, 2)])
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 2)])
def test_singular_values_are_those_of_the_whole_operator(inputs: int, outputs: int, size: tuple[int, int]) -> None:
    module = circular(inputs, outputs)
    expected = torch.linalg.svdvals(dense(module, inputs, size))
    values = singular_values(module, channels=inputs, size=size)
    torch.testing.assert_close(values, expected[: len(values)], atol=1e-6, rtol=1e-5)


def test_many_channels_are_measured_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = circular(5, 4)
    whole = singular_values(module, channels=5, size=(3, 4))
    monkeypatch.setattr("iqa_armor.ortho.lipschitz.CHUNK", 2)
    torch.testing.assert_close(singular_values(module, channels=5, size=(3, 4)), whole, atol=1e-6, rtol=1e-6)


def test_power_iteration_finds_the_largest_of_a_known_matrix() -> None:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([0.5, 3.0, 1.0])))
    assert largest_singular_value(layer, torch.zeros(1, 3)) == pytest.approx(3.0, rel=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_power_iteration_agrees_with_the_matrix(stride: int) -> None:
    torch.manual_seed(1)
    module = nn.Conv2d(2, 4, 3, stride=stride, padding=1)
    expected = float(torch.linalg.svdvals(dense(module, 2, (5, 6)))[0])
    found = largest_singular_value(module, torch.randn(1, 2, 5, 6), tolerance=1e-6, max_iterations=1000)
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_power_iteration_of_an_orthogonal_layer_is_one(training: bool) -> None:
    torch.manual_seed(0)
    layer = CayleyConv2d(3, 6).train(training)
    assert largest_singular_value(layer, torch.randn(2, 3, 4, 5)) == pytest.approx(1.0, abs=1e-4)
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_zero_layer_has_norm_zero() -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert largest_singular_value(layer, torch.ones(1, 3)) == 0


@pytest.mark.parametrize(
    ("channels", "size", "message"), [(0, (3, 3), "must be positive"), (2, (0, 3), "must be positive")]
)
def test_impossible_measurements_are_refused(channels: int, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        singular_values(circular(2, 3), channels=channels, size=size)


def test_layers_that_change_the_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"maps of \(6, 6\) became \(3, 3\)"):
        singular_values(nn.Conv2d(2, 3, 3, stride=2, padding=1), channels=2, size=(6, 6))


@pytest.mark.parametrize("settings", [{"tolerance": 0.0}, {"max_iterations": 0}])
def test_impossible_iterations_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        largest_singular_value(nn.Linear(2, 2), torch.zeros(1, 2), **settings)  # type: ignore[arg-type]
