"""Several processes of `accelerate launch`, each with its share of the blocks of images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One of `count` processes that share an evaluation; `rank` is from 0."""

    rank: int = 0
    count: int = 1

    def owns(self, number: int) -> bool:
        """Return whether this process works on a block."""
        return number % self.count == self.rank

    def gather(self, mine: Mapping[int, T]) -> dict[int, T]:
        """Return what all processes have, the same in each; every process must call it."""
        if self.count == 1:
            return dict(mine)
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, dict(mine))
        return {number: item for part in parts for number, item in part.items()}


def current_shard(device: torch.device) -> Shard:
    """Return the share of this process: all of it unless a launcher has started several that talk over this device."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Shard()
    from accelerate.state import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return Shard(state.process_index, state.num_processes)
