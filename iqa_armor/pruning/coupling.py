"""Channels that can only go together, found and cut by torch-pruning."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from iqa_armor.pruning.fixed_widths import layers_of_fixed_width


@dataclass(frozen=True)
class Member:
    """One side of a layer, or a parameter outside any (then without a name), whose channels go with others.

    Args:
        side: Whether the layer gives these channels or reads them; norms and depthwise filters give them.
        places: Indices of its channels.
        roots: The channel of the group that each of them goes with; None where some go with none.
    """

    layer: Any
    name: str
    side: Literal["gives", "reads"]
    places: list[int]
    roots: Tensor | None


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of coupled layers, each of which goes from all of them or from none.

    Args:
        width: Number of channels.
        parts: Number of equal parts that must lose the same places, as a grouped convolution's do.
        source: What torch-pruning calls the group.
    """

    members: tuple[Member, ...]
    width: int
    parts: int
    source: Any = field(repr=False, default=None)

    @cached_property
    def weights(self) -> Tensor:
        """How many channels of convolutions (width,) go with each channel."""
        counts = torch.zeros(self.width, dtype=torch.long)
        for member in self.members:
            if (
                member.side == "gives"
                and member.roots is not None
                and isinstance(member.layer, nn.modules.conv._ConvNd)
            ):
                counts += torch.bincount(member.roots, minlength=self.width)
        return counts


class Coupling:
    """The coupled channels of a network that may go.

    Args:
        network: Network with gradients on, edited by `cut`.
        example: Normalised input (1, 3, H, W) on the network's device.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
    """

    def __init__(self, network: fx.GraphModule, example: Tensor) -> None:
        import torch_pruning as tp

        self._names: dict[Any, str] = {module: name for name, module in network.named_modules()}
        with torch.enable_grad(), warnings.catch_warnings():
            # A parameter outside a layer, such as ConvNeXt's layer scale, is pruned along its last axis beyond 1.
            warnings.filterwarnings("ignore", message="Unwrapped parameters")
            self._graph: Any = tp.DependencyGraph().build_dependency(network, (example,))
        found = self._graph.get_all_groups(
            ignored_layers=layers_of_fixed_width(network), root_module_types=[nn.modules.conv._ConvNd]
        )
        self.groups = [self._group(source) for source in found if self._may_shrink(source)]

    def cut(self, removed: Iterable[tuple[ChannelGroup, list[int]]]) -> dict[str, list[int]]:
        """Remove channels of groups, in place.

        Returns:
            By layer that lost output channels, those that it keeps.
        """
        kept: dict[str, list[int]] = {}
        for group, channels in removed:
            first = group.source[0].dep
            source = self._graph.get_pruning_group(first.target.module, first.handler, channels)
            if self._graph.check_pruning_group(source):
                self._record(source, kept)
                source.prune()
        return kept

    def _group(self, source: Any) -> ChannelGroup:
        members = tuple(
            Member(
                item.dep.target.module,
                self._names.get(item.dep.target.module, ""),
                "gives" if self._graph.is_out_channel_pruning_fn(item.dep.handler) else "reads",
                list(item.idxs),
                None if any(root is None for root in item.root_idxs) else torch.as_tensor(list(item.root_idxs)),
            )
            for item in source
        )
        return ChannelGroup(members, len(source[0].idxs), max(map(self._parts, members)), source)

    def _parts(self, member: Member) -> int:
        layer = member.layer
        if not member.name or (isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == layer.out_channels):
            return 1
        pruner = self._graph.get_pruner_of_module(layer)
        find = pruner.get_out_channel_groups if member.side == "gives" else pruner.get_in_channel_groups
        return int(find(layer))

    def _may_shrink(self, source: Any) -> bool:
        """Return whether no layer of a group has one channel only."""
        graph, layers = self._graph, [item.dep for item in source if item.dep.target.module in self._names]
        widths = [
            (graph.get_out_channels if graph.is_out_channel_pruning_fn(dep.handler) else graph.get_in_channels)(
                dep.target.module
            )
            for dep in layers
        ]
        return 1 not in widths

    def _record(self, source: Any, kept: dict[str, list[int]]) -> None:
        """Note which output channels of each layer outlive a group that is about to be cut."""
        for dependency, indices in source:
            layer = dependency.target.module
            if layer not in self._names or not self._graph.is_out_channel_pruning_fn(dependency.handler):
                continue
            name, gone = self._names[layer], set(indices)
            current = kept.get(name) or range(self._graph.get_out_channels(layer))
            kept[name] = [channel for index, channel in enumerate(current) if index not in gone]
