"""Remove the least important channels of a traced network (a thin skin over torch-pruning)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from iqa_armor.errors import NETWORK_FAILURES, SurgeryError
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.pruning.importance import ACROSS_LAYERS, CRITERIA, FROM_SAMPLES, group_importance, reader_scores
from iqa_armor.pruning.protected import multiplied_layers, output_layers
from iqa_armor.pruning.recalibrate import kept_statistics, recalibrate
from iqa_armor.pruning.rounding import TOLERANCE, Rounding, promising, ratios
from iqa_armor.pruning.samples import LabelledBatches, pooled_inputs

Importance = Callable[[Any], Tensor | None]
TRIES = 4


@dataclass(frozen=True)
class Pruned:
    """What pruning did.

    Args:
        network: The pruned copy.
        share: Removed share of the convolutions' output channels, in [0, 1).
        round_to: Multiple that the kept widths were rounded to.
        channels: (before, after) sums of the convolutions' output channels.
        parameters: (before, after) numbers of parameters.
        samples: Number of labelled images that importance was measured on.
    """

    network: fx.GraphModule
    share: float
    round_to: int
    channels: tuple[int, int]
    parameters: tuple[int, int]
    samples: int = 0

    def facts(self) -> dict[str, object]:
        """Return everything but the network, as plain values."""
        return {
            "share": self.share,
            "round_to": self.round_to,
            "channels": list(self.channels),
            "parameters": list(self.parameters),
            "samples": self.samples,
        }


def prune(
    traced: fx.GraphModule,
    calibration: Tensor,
    *,
    ratio: float = 0.10,
    criterion: str = "l2",
    across_layers: bool = False,
    halved: Collection[int] = (),
    samples: LabelledBatches | None = None,
    seed: int = 0,
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
        criterion: One of `CRITERIA`.
        across_layers: Rank channels across layers instead of within each.
        halved: Widths of tensors whose half should be a multiple as well, since a block will work on it. Where that
            costs little, they are rounded down to a multiple of twice the size.
        samples: Labelled images, for the criteria of `FROM_SAMPLES`; gone through once.
        seed: Of the random criterion.

    Returns:
        The pruned copy, in eval mode, with what was removed.

    Raises:
        ValueError: If the ratio or the criterion is not allowed, or the criterion lacks what it needs.
        SurgeryError: If torch-pruning cannot follow the network's channels.

    Source: [RA] Section 3; Fang et al., "DepGraph", CVPR 2023 (the dependency graph).
    """
    _check(traced, ratio, criterion, across_layers=across_layers, has_samples=samples is not None)
    scores, count = {}, 0
    if criterion in FROM_SAMPLES and samples is not None:
        inputs = pooled_inputs(traced, samples)
        scores, count = reader_scores(criterion, inputs), len(inputs.labels)

    def attempt(rounding: Rounding, aim: float) -> _Attempt:
        def importance(names: dict[nn.Module, str]) -> Importance:
            return group_importance(criterion, names=names, scores=scores, across_layers=across_layers, seed=seed)

        pruned, kept = _pruned_copy(traced, calibration, aim, importance, across_layers, rounding)
        return _Attempt(pruned, kept, rounding, 1 - _channels(pruned) / _channels(traced))

    roundings = promising(traced, ratio, across_layers=across_layers, halved=halved)
    aim = _aim(lambda aim: attempt(roundings[-1], aim).share, ratio) if across_layers else ratio
    for rounding in roundings:
        best = attempt(rounding, aim)
        if abs(best.share - ratio) <= TOLERANCE:
            break
    pruned = best.network
    recalibrate(pruned, kept_statistics(traced, best.kept, calibration), calibration)
    channels = (_channels(traced), _channels(pruned))
    parameters = (_parameters(traced), _parameters(pruned))
    return Pruned(pruned, best.share, best.rounding.multiple, channels, parameters, count)


@dataclass(frozen=True)
class _Attempt:
    network: fx.GraphModule
    kept: dict[str, list[int]]
    rounding: Rounding
    share: float


def _aim(share_at: Callable[[float], float], ratio: float) -> float:
    """Return what to ask torch-pruning for, across layers, so that a share of `ratio` of all channels goes.

    It counts layers that share channels as one, so where such layers are the least important more goes than was asked
    for. What is asked for is corrected by the quotient, at most four times (ours).
    """
    aim = ratio
    for _ in range(TRIES):
        share = share_at(aim)
        if abs(share - ratio) <= TOLERANCE / 3:
            break
        aim = min(aim * min(ratio / max(share, 1e-9), 2.0), 0.95)
    return aim


def _check(traced: fx.GraphModule, ratio: float, criterion: str, *, across_layers: bool, has_samples: bool) -> None:
    if not 0 <= ratio < 1:
        raise ValueError(f"the pruning ratio must be in [0, 1), got {ratio}")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if criterion in FROM_SAMPLES and not has_samples:
        raise ValueError(f"the criterion {criterion} must be given labelled images; pass samples")
    if criterion in ACROSS_LAYERS and not across_layers:
        raise ValueError(f"the criterion {criterion} must rank across layers; pass across_layers=True")
    if any(isinstance(module, RobustBlock) for module in traced.modules()):
        raise SurgeryError(
            "this model already holds a RobustBlock, which pruning would break; harden the original model, or "
            "pass --prune 0"
        )


def _pruned_copy(
    traced: fx.GraphModule,
    calibration: Tensor,
    ratio: float,
    importance: Callable[[dict[nn.Module, str]], Importance],
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
                importance(names),
                pruning_ratio=ratio,
                global_pruning=across_layers,
                round_to=rounding.multiple,
                pruning_ratio_dict={} if across_layers else ratios(duplicate, ratio, rounding),
                ignored_layers=[*output_layers(duplicate), *multiplied_layers(duplicate)],
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
    except NETWORK_FAILURES as error:
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


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _channels(network: nn.Module) -> int:
    return sum(m.out_channels for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd))
