"""Measured singular values against matrices written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from iqa_armor.ortho.lipschitz import singular_values


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


@pytest.mark.parametrize(
    ("channels", "size", "message"), [(0, (3, 3), "must be positive"), (2, (0, 3), "must be positive")]
)
def test_impossible_measurements_are_refused(channels: int, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        singular_values(circular(2, 3), channels=channels, size=size)


def test_layers_that_change_the_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"maps of \(6, 6\) became \(3, 3\)"):
        singular_values(nn.Conv2d(2, 3, 3, stride=2, padding=1), channels=2, size=(6, 6))
