"""Sizes of what common operations make; to ask torch for one imports its compiler, which takes a second."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn import functional

from iqa_armor.models.sqish import Sqish

Rule = Callable[[Any, Size], Sequence[int] | None]


def _convolved(layer: nn.Conv2d, size: Size) -> Sequence[int] | None:
    is_plain = not isinstance(layer.padding, str) and size[1] == layer.in_channels
    return _windows(layer, size, layer.out_channels) if is_plain else None


def _pooled(layer: nn.MaxPool2d | nn.AvgPool2d, size: Size) -> Sequence[int] | None:
    is_plain = not layer.ceil_mode and not getattr(layer, "return_indices", False)
    return _windows(layer, size, size[1]) if is_plain else None


def _windows(layer: Any, size: Size, channels: int) -> Sequence[int] | None:
    """Return the size of one value for each window and channel, None where not one fits."""
    parts = (layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1))
    steps = zip(size[2:], *((part, part) if isinstance(part, int) else part for part in parts), strict=True)
    sides = [(side + 2 * pad - wide * (width - 1) - 1) // step + 1 for side, width, step, pad, wide in steps]
    return (size[0], channels, *sides) if min(sides) > 0 else None


def _averaged(layer: nn.AdaptiveAvgPool2d, size: Size) -> Sequence[int]:
    wanted = layer.output_size if isinstance(layer.output_size, tuple) else (layer.output_size,) * 2
    return (*size[:2], *(side if want is None else want for side, want in zip(size[2:], wanted, strict=True)))


MAPS: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _convolved,
    nn.MaxPool2d: _pooled,
    nn.AvgPool2d: _pooled,
    nn.AdaptiveAvgPool2d: _averaged,
    nn.BatchNorm2d: lambda layer, size: None if layer.training or size[1] != layer.num_features else size,
}
POINTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish, Sqish),
    *(nn.Hardsigmoid, nn.Identity, nn.Dropout, nn.Dropout2d),
)
ELEMENTWISE = (
    *(operator.add, operator.sub, operator.mul, operator.truediv),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.relu, torch.sigmoid, torch.tanh, torch.sqrt),
    *(functional.relu, functional.relu6, functional.silu, functional.gelu, functional.hardswish),
)


def value_of_layer(layer: nn.Module, args: tuple[Any, ...]) -> Tensor | None:
    """Return a float32 tensor without memory as large as what a layer makes, or None where only torch can tell."""
    given: Any = args[0] if len(args) == 1 else None
    if not _is_plain(given) or any(parameter.dtype != torch.float32 for parameter in layer.parameters()):
        return None
    if type(layer) in POINTWISE and not getattr(layer, "inplace", False):
        return _empty(given.shape)
    if type(layer) is nn.Linear:
        return _empty((*given.shape[:-1], layer.out_features)) if given.shape[-1] == layer.in_features else None
    rule = MAPS.get(type(layer))
    return None if rule is None or given.ndim != 4 else _empty(rule(layer, given.shape))


def value_of_call(target: object, args: tuple[Any, ...]) -> Tensor | None:
    """Return the same of a function of tensors of one size and of numbers, or of the method `mean`."""
    if target == "mean" and len(args) == 2 and _is_plain(args[0]) and args[1] in ((2, 3), [2, 3], (-2, -1), [-2, -1]):
        return _empty(args[0].shape[:2]) if args[0].ndim == 4 else None
    tensors = [arg for arg in args if type(arg) not in (int, float)]
    if target not in ELEMENTWISE or not tensors or not all(map(_is_plain, tensors)):
        return None
    return _empty(tensors[0].shape) if len({arg.shape for arg in tensors}) == 1 else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.dtype == torch.float32 and value.ndim > 0


def _empty(size: Sequence[int] | None) -> Tensor | None:
    return None if size is None else torch.empty(tuple(size), device="meta")
