"""Channel importance: what decides which channels go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch_pruning as tp
from torch import Tensor, nn

from iqa_armor.pruning.hsic import hsic
from iqa_armor.pruning.pls import distilled_vip, vip
from iqa_armor.pruning.samples import Inputs

Criterion = Literal["l1", "l2", "pls", "distilled-pls", "hsic", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)

# Each gives torch-pruning's importance of a group of coupled layers: the mean over its layers of the p-norms
# of a channel's weights, incoming and outgoing (Li et al., "Pruning Filters for Efficient ConvNets",
# ICLR 2017, for p = 1 on one layer; [RA] uses p = 2).
MAGNITUDES = {"l1": 1, "l2": 2}

# Importance (C,) of the channels that one layer reads, of their pooled activations (n, C) and the labels (n,).
FROM_SAMPLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"pls": vip, "distilled-pls": distilled_vip, "hsic": hsic}

# Criteria whose values differ between layers by design, so that ranking within a layer would throw that away.
ACROSS_LAYERS = ("distilled-pls",)
# Ranked across layers by what they say of the labels, early layers could lose nearly everything (ours).
MOST_OF_A_LAYER = 0.5
SPARED = 1e3  # above any importance
TIE = 1e-9  # the last of a layer's equal channels is worth this much more than the first
READS = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


def reader_scores(criterion: str, inputs: Inputs) -> dict[str, Tensor]:
    """Return the importance (C,) of the channels that each layer reads, by the layer's name.

    Args:
        criterion: A key of `FROM_SAMPLES`.
        inputs: What the layers read on labelled images.
    """
    score = FROM_SAMPLES[criterion]
    return {name: score(pooled, inputs.labels) for name, pooled in inputs.pooled.items()}


@dataclass(frozen=True)
class ReaderImportance:
    """Importance of a group's channels where they are read: behind norms, activations, sums and depthwise filters.

    A channel is worth what the convolutions and linear layers that read it find in it, on average over them; where a
    flattened map is read, on average over the channel's places. So a channel that a ReLU silences is worth nothing
    whatever its weights, and channels that residual sums couple are judged as sums. Channels that no layer reads keep
    their place. All ours; [RA] does not say where activations are taken.

    Args:
        scores: Importance (C,) of what each layer reads, by name.
        names: Names of the network's modules.
        most: Share of a group's channels that is ranked by these scores, in (0, 1]; the rest goes later, in step with
            the rest of other groups.
    """

    scores: Mapping[str, Tensor]
    names: Mapping[nn.Module, str]
    most: float = 1.0

    def __call__(self, group: Any) -> Tensor | None:
        """Return the importance (C,) of the channels of a torch-pruning group, or None where nothing reads them."""
        channels = len(group[0].idxs)
        found = []
        for item in group:
            name = self.names.get(item.dep.target.module)
            is_read = item.dep.handler in READS and name in self.scores
            if name is None or not is_read or any(root is None for root in item.root_idxs):
                continue
            roots = torch.as_tensor(list(item.root_idxs))
            values = self.scores[name][list(item.idxs)]
            places = torch.bincount(roots, minlength=channels).clamp_min(1)
            found.append(torch.zeros(channels, dtype=values.dtype).scatter_add(0, roots, values) / places)
        if not found:
            return None
        # torch-pruning removes all that equal the threshold, and dead channels are all worth 0.
        importance = torch.stack(found).mean(dim=0) + TIE * torch.arange(channels) / channels
        spared = importance.argsort()[max(1, int(self.most * channels)) :]
        importance[spared] = SPARED + torch.arange(len(spared), dtype=importance.dtype) / channels
        return importance


@dataclass(frozen=True)
class RandomImportance:
    """Importance drawn uniformly from [0, 1): the control that any criterion should beat.

    Args:
        generator: What it is drawn from, on the CPU.
    """

    generator: torch.Generator

    def __call__(self, group: Any) -> Tensor:
        """Return importance (C,) of the channels of a torch-pruning group."""
        return torch.rand(len(group[0].idxs), generator=self.generator)


def group_importance(
    criterion: str, *, names: Mapping[nn.Module, str], scores: Mapping[str, Tensor], across_layers: bool, seed: int
) -> Callable[[Any], Tensor | None]:
    """Return what gives torch-pruning the importance of a group of coupled layers.

    Args:
        criterion: One of `CRITERIA`.
        names: Names of the modules of the network to be pruned.
        scores: What `reader_scores` gave, where the criterion needs it.
        across_layers: Whether channels are ranked across layers; then half of a layer is spared (ours).
        seed: Of the random criterion.
    """
    if criterion in MAGNITUDES:
        magnitude: Callable[[Any], Tensor | None] = tp.importance.GroupMagnitudeImportance(p=MAGNITUDES[criterion])
        return magnitude
    if criterion in FROM_SAMPLES:
        return ReaderImportance(scores, names, MOST_OF_A_LAYER if across_layers else 1.0)
    return RandomImportance(torch.Generator().manual_seed(seed))
