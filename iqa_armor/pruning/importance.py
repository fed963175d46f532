"""Channel importance: what decides which channels go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch_pruning as tp

Criterion = Literal["l1", "l2"]

# Each gives torch-pruning's importance of a group of coupled layers: the mean over its layers of the p-norms
# of a channel's weights, incoming and outgoing (Li et al., "Pruning Filters for Efficient ConvNets",
# ICLR 2017, for p = 1 on one layer; [RA] uses p = 2).
CRITERIA: dict[str, Callable[[], Any]] = {
    "l1": partial(tp.importance.GroupMagnitudeImportance, p=1),
    "l2": partial(tp.importance.GroupMagnitudeImportance, p=2),
}
