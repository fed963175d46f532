"""What the rehearsal of a stored graph says without torch is what torch says."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.artifact.quick_sizes import ELEMENTWISE, POINTWISE, value_of_call, value_of_layer

LAYERS = [
    nn.Conv2d(6, 4, 3),
    nn.Conv2d(6, 8, (3, 1), stride=(2, 1), padding=(1, 0), groups=2),
    nn.Conv2d(6, 4, 5, dilation=2, padding=3),
    nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"),
    nn.BatchNorm2d(6),
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(2, dilation=2),
    nn.AvgPool2d((3, 2)),
    nn.AdaptiveAvgPool2d((None, 3)),
    nn.AdaptiveAvgPool2d(1),
    nn.Linear(11, 5),
    *(kind() for kind in POINTWISE),
]
# Layers and sizes that do not fit, or that only torch can tell of.
UNKNOWN = [
    nn.Conv2d(5, 4, 3),
    nn.Conv2d(6, 4, 30),
    nn.Conv2d(6, 4, 3, padding="same"),
    nn.Conv2d(6, 4, 3).half(),
    nn.BatchNorm2d(5),
    nn.MaxPool2d(2, ceil_mode=True),
    nn.MaxPool2d(2, return_indices=True),
    nn.Linear(12, 5),
    nn.LayerNorm(11),
]


def on_meta(layer: nn.Module) -> nn.Module:
    return layer.to("meta").eval()


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("size", [(2, 6, 14, 11), (1, 6, 12, 11)])
def test_layers_give_the_sizes_that_torch_gives(layer: nn.Module, size: tuple[int, ...]) -> None:
    maps = torch.empty(size, device="meta")
    found = value_of_layer(on_meta(layer), (maps,))
    expected = on_meta(layer)(maps)
    assert found is not None
    assert (found.shape, found.dtype, found.device) == (expected.shape, expected.dtype, expected.device)


@pytest.mark.parametrize("layer", UNKNOWN, ids=repr)
def test_what_does_not_fit_is_left_to_torch(layer: nn.Module) -> None:
    assert value_of_layer(on_meta(layer), (torch.empty(2, 6, 14, 11, device="meta"),)) is None


@pytest.mark.parametrize("given", [torch.empty(2, 6, 14, 11), torch.empty(2, 6, 14, 11, dtype=torch.long), 3, [1]])
def test_other_arguments_are_left_to_torch(given: object) -> None:
    assert value_of_layer(nn.ReLU(), (given,)) is None
    assert value_of_call(torch.relu, (given,)) is None


@pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda function: function.__name__)
def test_functions_give_the_sizes_that_torch_gives(function: Callable[..., Tensor]) -> None:
    maps = torch.empty(2, 6, 4, 4, device="meta")
    two = function.__module__ == "_operator" or function in (torch.add, torch.sub, torch.mul, torch.div)
    for args in [(maps, maps), (maps, 2.0)] if two else [(maps,)]:
        found, expected = value_of_call(function, args), function(*args)
        assert found is not None
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


def test_broadcasting_is_left_to_torch_since_it_may_grow() -> None:
    rows, columns = torch.empty(2, 1, 4, device="meta"), torch.empty(2, 4, 1, device="meta")
    assert value_of_call(operator.add, (rows, columns)) is None
    assert value_of_call(torch.matmul, (rows, columns)) is None


def test_mean_over_the_image_has_the_size_that_torch_gives() -> None:
    maps = torch.empty(2, 6, 4, 5, device="meta")
    for axes in ((2, 3), [2, 3], (-2, -1)):
        found = value_of_call("mean", (maps, axes))
        assert found is not None
        assert found.shape == maps.mean(axes).shape
    assert value_of_call("mean", (maps, 1)) is None
    assert functional.relu(maps).shape == maps.shape
