"""Measure how far the blocks of a hardened model, and the layers after them, can stretch their input."""

import copy
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import fx, nn

from iqa_armor.graph.calls import called_name, layer_of
from iqa_armor.graph.interpret import size_of
from iqa_armor.graph.walk import descendants
from iqa_armor.ortho.block import RobustBlock, TokenBlock
from iqa_armor.ortho.lanczos import Gains, extreme_gains
from iqa_armor.ortho.layer import OrthogonalConv2d
from iqa_armor.ortho.lipschitz import norm_bound, singular_values

EXACT_LIMIT = 2**26  # complex numbers of a half spectrum (1 GiB) up to which every frequency is decomposed
ROUNDING = 1e-5  # relative, of float32 layers in what is called exact
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PRODUCTS = ("conv", "linear", "matmul", "bmm", "einsum")  # parts of the names of functions


@dataclass(frozen=True)
class LayerGain:
    """The largest singular value of a layer's linear part, off by up to `tolerance`; its maps have `size` (h, w)."""

    name: str
    kind: str
    size: tuple[int, int] | None
    largest: float
    tolerance: float


@dataclass(frozen=True)
class BlockSpectrum:
    """Largest and smallest singular value of a block's orthogonal convolution on maps of `size` (height, width).

    They may be off by `tolerance`; `method` is "every frequency", or "Lanczos" where that would take too much memory.
    `after` has convolutions, linear layers and batch norms behind the block, in the order of the graph, `unmeasured`
    the functional convolutions and products there, which have no layer to measure.
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
    name = str(node.target)
    height, width = module.size if isinstance(module, TokenBlock) else (size_of(node) or (0, 0, 1, 1))[2:]
    block = module.block if isinstance(module, TokenBlock) else module
    gains, method = _extremes(block.orthogonal, (height, width))
    reached = descendants(node)
    behind = [later for later in traced.graph.nodes if later in reached and later is not node]
    gains_of = [_layer_gain(f"{name}.reduction", block.reduction, (1, block.channels, height, width))]
    for each in behind:
        if (layer := layer_of(traced, each)) is not None:
            gains_of.append(_layer_gain(str(each.target), layer, size_of(each.all_input_nodes[0]) or ()))
    reduction, *after = filter(None, gains_of)
    return BlockSpectrum(
        name=name,
        backend=block.backend,
        channels=block.channels,
        size=(height, width),
        largest=gains.largest,
        smallest=gains.smallest or 0.0,
        tolerance=gains.tolerance,
        method=method,
        reduction=reduction,
        after=tuple(after),
        unmeasured=tuple(each.name for each in behind if any(word in called_name(each) for word in PRODUCTS)),
    )


def _extremes(module: OrthogonalConv2d, size: tuple[int, int]) -> tuple[Gains, str]:
    layer = copy.deepcopy(module).eval().requires_grad_(False)  # takes its cache away with it
    frequencies = size[0] * (size[1] // 2 + 1)
    if frequencies * layer.in_channels * layer.out_channels > EXACT_LIMIT:
        example = layer.bias.new_zeros(1, layer.in_channels, *size)
        return extreme_gains(layer, example, with_smallest=True), "Lanczos"
    values = singular_values(layer, channels=layer.in_channels, size=size)
    return Gains(float(values[0]), float(values[-1]), ROUNDING * float(values[0]), 0), "every frequency"


def _layer_gain(name: str, module: nn.Module, given: tuple[int, ...]) -> LayerGain | None:
    """Return the gain of a layer on tensors of the size `given`; None for one without linear part."""
    if isinstance(module, nn.Linear) or _is_pointwise(module):
        largest = float(torch.linalg.matrix_norm(module.weight.detach().flatten(1).double(), 2))
        tolerance = ROUNDING * largest
    elif isinstance(module, NORMS) and module.running_var is not None:
        largest, tolerance = norm_bound(module), 0.0
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        found = extreme_gains(copy.deepcopy(module).requires_grad_(False), module.weight.new_zeros(1, *given[1:]))
        largest, tolerance = found.largest, found.tolerance
    else:
        return None
    return LayerGain(name, type(module).__name__, (given[2], given[3]) if len(given) == 4 else None, largest, tolerance)


def _is_pointwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether a layer is one matrix at every pixel, be it on every other pixel only."""
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str):
        return False
    return (module.kernel_size, module.groups) == ((1, 1), 1) and not any(module.padding)
