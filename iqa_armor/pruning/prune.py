"""Remove the least important channels of a traced network (a thin skin over torch-pruning)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from iqa_armor.errors import SurgeryError
from iqa_armor.ortho import RobustBlock
from iqa_armor.pruning.importance import CRITERIA
from iqa_armor.pruning.recalibrate import kept_statistics, recalibrate
from iqa_armor.pruning.rounding import TOLERANCE, Rounding, promising, ratios

# Functions and methods that multiply matrices.
PRODUCTS = ("matmul", "bmm", "mm", "einsum", "baddbmm", "scaled_dot_product_attention")
PRUNING_FAILURES = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
)


@dataclass(frozen=True)
class Pruned:
    """What pruning did.

    Args:
        network: The pruned copy.
        share: Removed share of the convolutions' output channels, in [0, 1).
        round_to: Multiple that the kept widths were rounded to.
        channels: (before, after) sums of the convolutions' output channels.
        parameters: (before, after) numbers of parameters.
    """

    network: fx.GraphModule
    share: float
    round_to: int
    channels: tuple[int, int]
    parameters: tuple[int, int]

    def facts(self) -> dict[str, object]:
        """Return everything but the network, as plain values."""
        return {
            "share": self.share,
            "round_to": self.round_to,
            "channels": list(self.channels),
            "parameters": list(self.parameters),
        }


def prune(
    traced: fx.GraphModule,
    calibration: Tensor,
    *,
    ratio: float = 0.10,
    criterion: str = "l2",
    across_layers: bool = False,
    halved: Collection[int] = (),
) -> Pruned:
    """Return a copy of a network without the least important channels of its convolutions.

    Widths are rounded to multiples of the largest of 16, 8, 4, 1 that keeps the removed share within 1.5 points of
    `ratio`; down where that is within them, else rather or altogether to the nearest multiple.
    What the removed channels contributed on average is folded into the biases and batch-norm statistics behind
    them (ours; see `recalibrate`).

    Args:
        traced: Traced network, left untouched.
        calibration: Normalised input (N, 3, H, W) on the network's device, clean training images.
        ratio: Share of channels to remove, in [0, 1).
        criterion: A key of `CRITERIA`.
        across_layers: Rank channels across layers instead of within each.
        halved: Widths of tensors whose half should be a multiple as well, since a block will work on it. Where that
            costs little, they are rounded down to a multiple of twice the size.

    Returns:
        The pruned copy, in eval mode, with what was removed.

    Raises:
        ValueError: If the ratio or the criterion is not allowed.
        SurgeryError: If torch-pruning cannot follow the network's channels.

    Source: [RA] Section 3; Fang et al., "DepGraph", CVPR 2023 (the dependency graph).
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"the pruning ratio must be in [0, 1), got {ratio}")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if any(isinstance(module, RobustBlock) for module in traced.modules()):
        raise SurgeryError(
            "this model already holds a RobustBlock, which pruning would break; harden the original model, or "
            "pass --prune 0"
        )
    for rounding in promising(traced, ratio, across_layers=across_layers, halved=halved):
        pruned, kept = _pruned_copy(traced, calibration, ratio, criterion, across_layers, rounding)
        before, after = _channels(traced), _channels(pruned)
        share = 1 - after / before
        if abs(share - ratio) <= TOLERANCE:
            break
    recalibrate(pruned, kept_statistics(traced, kept, calibration), calibration)
    parameters = tuple(sum(p.numel() for p in network.parameters()) for network in (traced, pruned))
    return Pruned(pruned, share, rounding.multiple, (before, after), parameters)  # type: ignore[arg-type]


def _pruned_copy(
    traced: fx.GraphModule,
    calibration: Tensor,
    ratio: float,
    criterion: str,
    across_layers: bool,
    rounding: Rounding,
) -> tuple[fx.GraphModule, dict[str, list[int]]]:
    """Return a pruned copy and, per module name, which output channels it kept."""
    duplicate = copy.deepcopy(traced).eval().requires_grad_(True)
    names = {module: name for name, module in duplicate.named_modules()}
    kept: dict[str, list[int]] = {}
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # A parameter outside a layer, such as ConvNeXt's layer scale, is pruned along its last axis beyond 1.
            warnings.filterwarnings("ignore", message="Unwrapped parameters")
            pruner = tp.pruner.BasePruner(
                duplicate,
                (calibration[:1],),
                CRITERIA[criterion](),
                pruning_ratio=ratio,
                global_pruning=across_layers,
                round_to=rounding.multiple,
                pruning_ratio_dict={} if across_layers else ratios(duplicate, ratio, rounding),
                ignored_layers=[*_output_layers(duplicate), *_multiplied_layers(duplicate)],
                root_module_types=[nn.modules.conv._ConvNd],
                # Defaults of torch-pruning are shared between pruners: pass fresh ones.
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
                channel_groups={},
            )
        for group in pruner.step(interactive=True):
            _record_kept(pruner.DG, group, names, kept)
            group.prune()
        with torch.no_grad():
            duplicate.forward(calibration[:1])  # calling a graph module would print what fails
    except PRUNING_FAILURES as error:
        raise SurgeryError(
            f"torch-pruning cannot prune this network: {type(error).__name__}: {error}; heads must read sizes "
            "from their tensors, not hard-code them. --prune 0 skips pruning"
        ) from error
    return duplicate, kept


def _record_kept(graph: Any, group: Any, names: dict[nn.Module, str], kept: dict[str, list[int]]) -> None:
    """Note which output channels of each layer outlive a group that is about to be pruned."""
    for dependency, indices in group:
        module = dependency.target.module
        if module not in names or not graph.is_out_channel_pruning_fn(dependency.handler):
            continue
        current = kept.setdefault(names[module], list(range(graph.get_out_channels(module))))
        gone = set(indices)
        kept[names[module]] = [channel for i, channel in enumerate(current) if i not in gone]


def _output_layers(traced: fx.GraphModule) -> Iterator[nn.Module]:
    """Yield the layers whose output is the score itself: their width is not free."""
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    yield from _layers_before(traced, output)


def _multiplied_layers(traced: fx.GraphModule) -> Iterator[nn.Module]:
    """Yield the layers whose channels a product of matrices mixes, as bilinear pooling does.

    What reads the product has an input for every pair of channels, which no dependency graph follows; so these layers
    keep their width (ours).
    """
    for node in traced.graph.nodes:
        if node.op in ("call_function", "call_method") and getattr(node.target, "__name__", node.target) in PRODUCTS:
            yield from _layers_before(traced, node)


def _layers_before(traced: fx.GraphModule, end: fx.Node) -> Iterator[nn.Module]:
    """Yield the last convolutions and linear layers on the way to a node."""
    waiting, seen = list(end.all_input_nodes), set(end.all_input_nodes)
    while waiting:
        node = waiting.pop()
        module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            yield module
            continue
        fresh = [source for source in node.all_input_nodes if source not in seen]
        seen.update(fresh)
        waiting.extend(fresh)


def _channels(network: nn.Module) -> int:
    return sum(m.out_channels for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd))
