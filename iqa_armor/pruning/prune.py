"""Remove the least important channels of a traced network (a thin skin over torch-pruning)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from iqa_armor.errors import SurgeryError
from iqa_armor.ortho import RobustBlock
from iqa_armor.pruning.importance import CRITERIA
from iqa_armor.pruning.recalibrate import kept_statistics, recalibrate

ROUNDINGS = (16, 8, 4, 1)
TOLERANCE = 0.015  # of the removed share, so 10 % may become 8.5 to 11.5 %
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
) -> Pruned:
    """Return a copy of a network without the least important channels of its convolutions.

    Widths are rounded to the nearest multiple of the largest of 16, 8, 4, 1 that keeps the removed share within 1.5
    points of `ratio`: processors work on channels by sixteens.
    What the removed channels contributed on average is folded into the biases and batch-norm statistics behind
    them (ours; see `recalibrate`).

    Args:
        traced: Traced network, left untouched.
        calibration: Normalised input (N, 3, H, W) on the network's device, clean training images.
        ratio: Share of channels to remove, in [0, 1).
        criterion: A key of `CRITERIA`.
        across_layers: Rank channels across layers instead of within each.

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
    for round_to in ROUNDINGS:
        pruned, kept = _pruned_copy(traced, calibration, ratio, criterion, across_layers, round_to)
        before, after = _channels(traced), _channels(pruned)
        share = 1 - after / before
        if abs(share - ratio) <= TOLERANCE or round_to == 1:
            break
    recalibrate(pruned, kept_statistics(traced, kept, calibration), calibration)
    parameters = tuple(sum(p.numel() for p in network.parameters()) for network in (traced, pruned))
    return Pruned(pruned, share, round_to, (before, after), parameters)  # type: ignore[arg-type]


def _pruned_copy(
    traced: fx.GraphModule, calibration: Tensor, ratio: float, criterion: str, across_layers: bool, round_to: int
) -> tuple[fx.GraphModule, dict[str, list[int]]]:
    """Return a pruned copy and, per module name, which output channels it kept."""
    duplicate = copy.deepcopy(traced).eval().requires_grad_(True)
    names = {module: name for name, module in duplicate.named_modules()}
    kept: dict[str, list[int]] = {}
    try:
        with torch.enable_grad():
            pruner = tp.pruner.BasePruner(
                duplicate,
                (calibration[:1],),
                CRITERIA[criterion](),
                pruning_ratio=ratio,
                global_pruning=across_layers,
                round_to=round_to,
                pruning_ratio_dict={} if across_layers else _ratios(duplicate, ratio, round_to),
                ignored_layers=list(_output_layers(duplicate)),
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
            duplicate(calibration[:1])
    except PRUNING_FAILURES as error:
        raise SurgeryError(
            f"torch-pruning cannot prune this network: {type(error).__name__}: {error}; heads must read sizes "
            "from their tensors, not hard-code them. --prune 0 skips pruning"
        ) from error
    return duplicate, kept


def _ratios(network: nn.Module, ratio: float, round_to: int) -> dict[nn.Module, float]:
    """Return the ratio per convolution that leaves the multiple of `round_to` nearest to its share of the channels.

    torch-pruning itself rounds widths down. Half a channel less is asked for, so that its arithmetic cannot cut one
    too many.
    """
    ratios = {}
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            width = module.out_channels
            kept = min(round((1 - ratio) * width / round_to) * round_to, width) or width
            ratios[module] = max(0.0, (width - kept - 0.5) / width)
    return ratios


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
    waiting, seen = list(output.all_input_nodes), set(output.all_input_nodes)
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
