"""Channel importance: what decides which channels go."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from iqa_armor.errors import SurgeryError, UsageError, calling
from iqa_armor.graph.interpret import cause_of
from iqa_armor.pruning.coupling import ChannelGroup, Member
from iqa_armor.pruning.samples import BLIND, Inputs, Reader, score_effects

# Ranked across layers by what they say of the labels, early layers could lose nearly everything (ours).
MOST_OF_A_LAYER = 0.5
EFFECT_IMAGES = 16  # evenly spread over those that statistics are taken from
SPARED = 1e3  # above any importance
TIE = 1e-9  # the last of a layer's equal channels is worth about this much more than the first


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at beside the weights."""

    generator: torch.Generator  # what it may draw from, on the CPU
    inputs: Inputs  # what layers read on labelled images, for criteria that take samples
    across_layers: bool = False  # whether channels are ranked across layers
    scores: dict[str, Tensor] = field(default_factory=dict)  # importance (C,) by layer, kept for the next group
    network: nn.Module | None = None  # that is to be pruned
    images: Tensor | None = None  # normalised training images (N, 3, H, W) on its device

    @cached_property
    def effects(self) -> dict[str, Tensor]:
        """What each channel (n, C) that a layer reads does to the scores; see `score_effects`.

        Without layers of which none does anything, as before a threshold; a SurgeryError if that holds for all layers.
        """
        if self.network is None or self.images is None:
            raise ValueError("effects on scores need the network and images")
        apart = max(1, len(self.images) // EFFECT_IMAGES)
        found = score_effects(self.network, self.images[::apart][:EFFECT_IMAGES])
        if not any(effects.any() for effects in found.values()):
            raise SurgeryError(BLIND)
        return {name: effects for name, effects in found.items() if effects.any()}


class Criterion(ABC):
    """A measure of channel importance."""

    takes_samples: ClassVar[bool] = False  # whether it looks at labelled images
    across_layers: ClassVar[bool] = False  # whether its values only make sense when layers are ranked together

    @abstractmethod
    def __call__(self, group: ChannelGroup, evidence: Evidence) -> Tensor | None:
        """Return the importance (width,) of the channels of a group, or None where they must keep their place."""


@dataclass(frozen=True)
class FunctionCriterion(Criterion):
    """A user's own function of a group and the evidence."""

    function: Callable[[ChannelGroup, Evidence], Tensor | None]

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> Tensor | None:
        return self.function(group, evidence)


def accepted(found: Any, name: str) -> Criterion:
    made = found() if isinstance(found, type) and issubclass(found, Criterion) else found
    if isinstance(made, Criterion):
        return made
    if not callable(made) or isinstance(made, type):
        raise UsageError(f"the criterion {name} must be a Criterion or a function (group, evidence) -> Tensor or None")
    return FunctionCriterion(made)


def importance_of(group: ChannelGroup, criterion: Criterion, evidence: Evidence) -> Tensor | None:
    """Return what a criterion gives for a group, or raise a SurgeryError if it fails or gives anything else."""
    name = f"the criterion {type(criterion).__name__}"
    with calling(name, SurgeryError, says=lambda failure: f"fails: {cause_of(failure)}"):
        values = criterion(group, evidence)
    if values is None or (tuple(values.shape) == (group.width,) and not values.isnan().any()):
        return values
    raise SurgeryError(f"{name} must give {group.width} numbers for a group, got {tuple(values.shape)} or NaN")


@dataclass(frozen=True)
class Magnitude(Criterion):
    """Size of a channel's weights, incoming and outgoing, over the mean size in its group.

    On average over the group's convolutions, linear layers and norms; depthwise filters do not count.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, for p = 1 on one layer; [RA] uses p = 2.
    The mean over coupled layers is that of Fang et al., "DepGraph", CVPR 2023.
    """

    power: int = 2  # p of the sum of |w|^p

    @torch.no_grad()
    def __call__(self, group: ChannelGroup, evidence: Evidence) -> Tensor | None:  # noqa: ARG002
        """Return importance (width,), of mean 1."""
        found = [(member, weights) for member in group.members if (weights := _weights(member)) is not None]
        if not found:
            return None
        total = torch.zeros(group.width, device=found[0][1].device)
        for member, weights in found:
            sizes = weights.flatten(1).abs().pow(self.power).sum(1)[member.places]
            total.scatter_add_(0, member.roots.to(sizes.device), sizes.to(total.dtype))
        total /= len(found)
        return total / total.mean().clamp_min(torch.finfo(total.dtype).tiny)  # all may be dead


@dataclass(frozen=True)
class Random(Criterion):
    """Importance drawn uniformly from [0, 1): the control that any criterion should beat."""

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> Tensor:
        return torch.rand(group.width, generator=evidence.generator)


@dataclass(frozen=True)
class Taylor(Criterion):
    """Mean over images of |a·∂score/∂a|, the first-order change of the score where a channel a goes.

    Taken at the convolutions and linear layers that read the channel, summed over its places and over those layers.
    Channels that no layer reads keep their place.

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
    Eq. 8. Ours: of the score instead of the cost, so that no labels are needed; summed over places instead of averaged.
    """

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> Tensor | None:
        """Return importance (width,) in units of the score."""
        found = [
            _by_root(group, member, evidence.effects[member.name].t()[member.places])
            for member in group.members
            if member.side == "reads" and member.name in evidence.effects
        ]
        if not found:
            return None
        importance = torch.stack(found).sum(dim=0).abs().mean(dim=1)
        return importance + importance.mean() * _ties(group, evidence)


class ReaderCriterion(Criterion):
    """Importance of channels where they are read: behind norms, activations, sums and depthwise filters.

    A channel is worth what the convolutions and linear layers that read it find in it, on average over them and, of a
    flattened map, over its places. So one that a ReLU silences is worth nothing whatever its weights, and those that
    residual sums couple are judged as sums. Channels that no layer reads keep their place. All ours.
    """

    takes_samples = True

    @abstractmethod
    def score(self, activations: Tensor, labels: Tensor) -> Tensor:
        """Return the importance (C,) of what a layer reads, (n, C), where labels are (n,)."""

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> Tensor | None:
        """Return importance (width,); ranked across layers, half of a group is worth more than any other channel."""
        inputs, found = evidence.inputs, []
        for member in group.members:
            if member.side == "reads" and member.name in inputs.pooled:
                if member.name not in evidence.scores:
                    evidence.scores[member.name] = self.score(inputs.pooled[member.name], inputs.labels)
                values = evidence.scores[member.name][member.places]
                places = torch.bincount(member.roots, minlength=group.width).clamp_min(1)
                found.append(_by_root(group, member, values) / places)
        if not found:
            return None
        # All that equals a threshold across layers goes, and dead channels are all worth 0.
        importance = torch.stack(found).mean(dim=0) + _ties(group, evidence)
        most = MOST_OF_A_LAYER if evidence.across_layers else 1.0
        spared = importance.argsort()[max(1, int(most * group.width)) :]
        importance[spared] = SPARED + torch.arange(len(spared), dtype=importance.dtype) / group.width
        return importance


def _ties(group: ChannelGroup, evidence: Evidence) -> Tensor:
    """Return what tells equal channels (width,) apart: no image wakes up those without weights, so they go first."""
    sizes = Magnitude(1)(group, evidence)
    order = torch.zeros(group.width) if sizes is None else sizes.cpu()
    return TIE * order.argsort(stable=True).argsort().double() / group.width


def _by_root(group: ChannelGroup, member: Member, values: Tensor) -> Tensor:
    """Return values (places, …) of a member's channels, added up by the group's channels (width, …)."""
    return values.new_zeros(group.width, *values.shape[1:]).index_add(0, member.roots, values)


def _weights(member: Member) -> Tensor | None:
    """Return the weights of a layer's channels, (channels, …), or None where they do not count."""
    layer: Any = member.layer
    weight: Tensor | None = getattr(layer, "weight", None)
    if weight is not None and isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
        return weight.unsqueeze(1)
    groups = getattr(layer, "groups", 1)
    is_depthwise = groups == getattr(layer, "out_channels", 0) > 1
    if weight is None or is_depthwise or not isinstance(layer, Reader):
        return None
    if (member.side == "gives") != getattr(layer, "transposed", False):
        return weight
    return weight.transpose(0, 1).repeat(groups, *[1] * (weight.ndim - 1))
