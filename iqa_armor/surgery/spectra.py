"""Measure how far the blocks of a hardened model, and the layers after them, can stretch their input."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from iqa_armor.graph.calls import called_name, layer_of
from iqa_armor.graph.sizes import size_of
from iqa_armor.graph.walk import descendants
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.gains import Gains, extreme_gains
from iqa_armor.ortho.layer import OrthogonalConv2d
from iqa_armor.ortho.lipschitz import singular_values
from iqa_armor.ortho.tokens import TokenBlock

# Complex numbers of a half spectrum (1 GiB) up to which every frequency is decomposed.
EXACT_LIMIT = 2**26
# Relative rounding of float32 layers in what is called exact.
ROUNDING = 1e-5
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PRODUCTS = ("conv", "linear", "matmul", "bmm", "einsum")  # parts of the names of functions


@dataclass(frozen=True)
class LayerGain:
    """The largest singular value of the linear part of one layer, which may be off by `tolerance`.

    `kind` is the layer's class, `size` is (height, width) of its input maps or None for vectors.
    """

    name: str
    kind: str
    size: tuple[int, int] | None
    largest: float
    tolerance: float


@dataclass(frozen=True)
class BlockSpectrum:
    """Measured singular values of a RobustBlock at its map size, and of the layers behind it.

    Args:
        size: (height, width) of the maps that the orthogonal convolution sees.
        largest: Largest singular value of the orthogonal convolution there; `smallest` likewise.
        tolerance: How far the two may be from singular values.
        method: "every frequency", or "Lanczos" where that would take too much memory.
        reduction: The block's 1×1 reduction.
        after: Convolutions, linear layers and batch norms behind the block, in the order of the graph.
        unmeasured: Functional convolutions and products behind the block, which have no layer to measure.
    """

    name: str
    backend: str
    channels: int
    size: tuple[int, int]
    largest: float
    smallest: float
    tolerance: float
    method: str
    reduction: LayerGain
    after: tuple[LayerGain, ...]
    unmeasured: tuple[str, ...]


def measure_blocks(traced: fx.GraphModule) -> tuple[BlockSpectrum, ...]:
    """Return the spectra of every RobustBlock of a network as `trace` gives it, which is left untouched."""
    layers = ((node, layer_of(traced, node)) for node in traced.graph.nodes)
    return tuple(_measure(traced, node, layer) for node, layer in layers if isinstance(layer, RobustBlock | TokenBlock))


def _measure(traced: fx.GraphModule, node: fx.Node, module: RobustBlock | TokenBlock) -> BlockSpectrum:
    height, width = module.size if isinstance(module, TokenBlock) else (size_of(node) or (0, 0, 1, 1))[2:]
    block = module.block if isinstance(module, TokenBlock) else module
    gains, method = _extremes(_thawed(block.orthogonal), (height, width))
    reached = descendants(node)
    behind = [later for later in traced.graph.nodes if later in reached and later is not node]
    after = (_layer_gain(each, layer_of(traced, each)) for each in behind)
    return BlockSpectrum(
        name=str(node.target),
        backend=block.backend,
        channels=block.channels,
        size=(height, width),
        largest=gains.largest,
        smallest=gains.smallest or 0.0,
        tolerance=gains.tolerance,
        method=method,
        reduction=_of_reduction(str(node.target), block.reduction, (height, width)),
        after=tuple(gain for gain in after if gain is not None),
        unmeasured=tuple(each.name for each in behind if any(word in called_name(each) for word in PRODUCTS)),
    )


def _of_reduction(name: str, layer: nn.Conv2d, size: tuple[int, int]) -> LayerGain:
    largest = _of_matrix(layer.weight)
    return LayerGain(f"{name}.reduction", "Conv2d", size, largest, ROUNDING * largest)


def _thawed(layer: OrthogonalConv2d) -> OrthogonalConv2d:
    """Return a copy in eval mode that asks for no parameter gradient and takes its cache away with it."""
    return copy.deepcopy(layer).eval().requires_grad_(False)


def _extremes(layer: OrthogonalConv2d, size: tuple[int, int]) -> tuple[Gains, str]:
    frequencies = size[0] * (size[1] // 2 + 1)
    if frequencies * layer.in_channels * layer.out_channels > EXACT_LIMIT:
        example = layer.bias.new_zeros(1, layer.in_channels, *size)
        return extreme_gains(layer, example, with_smallest=True), "Lanczos"
    values = singular_values(layer, channels=layer.in_channels, size=size)
    largest, smallest = float(values[0]), float(values[-1])
    return Gains(largest, smallest, ROUNDING * largest, 0), "every frequency"


def _layer_gain(node: fx.Node, module: nn.Module | None) -> LayerGain | None:
    if module is None:
        return None
    given = size_of(node.all_input_nodes[0]) or ()
    size = (given[2], given[3]) if len(given) == 4 else None
    if isinstance(module, nn.Linear) or _is_pointwise(module):
        largest = _of_matrix(module.weight)  # type: ignore[arg-type]
        tolerance = ROUNDING * largest
    elif isinstance(module, NORMS) and module.running_var is not None:
        largest = _of_norm(module, module.running_var)
        tolerance = 0.0
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        found = extreme_gains(copy.deepcopy(module).requires_grad_(False), module.weight.new_zeros(1, *given[1:]))
        largest, tolerance = found.largest, found.tolerance
    else:
        return None
    return LayerGain(str(node.target), type(module).__name__, size, largest, tolerance)


def _is_pointwise(module: nn.Module) -> bool:
    """Whether a layer is one matrix at every pixel, be it on every other pixel only."""
    return (
        isinstance(module, nn.Conv2d)
        and tuple(module.kernel_size) == (1, 1)
        and module.groups == 1
        and not isinstance(module.padding, str)
        and not any(module.padding)
    )


def _of_matrix(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach().flatten(1).double(), 2))


def _of_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, variance: Tensor) -> float:
    scale = torch.rsqrt(variance.double() + norm.eps)
    return float((scale if norm.weight is None else norm.weight.detach().double() * scale).abs().max())
