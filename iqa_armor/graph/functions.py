"""Functions that stand in graphs for what Python code does to tensors."""

from typing import Any

from torch import Tensor


def with_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of a tensor with `value` at an index: what `tensor[index] = value` leaves."""
    changed = tensor.clone()
    changed[index] = value
    return changed
