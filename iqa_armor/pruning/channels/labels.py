"""Label every channel of every tensor with the weights it comes from, so that what stands together falls together.

A *unit* is the smallest thing that can be removed: one output channel of a layer, under one whole number. A label
tensor has the shape of the tensor that it describes, batch size 1, and holds at every place the unit that the value
there belongs to; 0 means that the value cannot go. Labels of maps are constant over pixels and kept as expanded views,
so they cost no memory. What two labels must share is noted as a link; what must stay is noted as fixed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Labels = Any  # a label tensor, a tuple of them where the value is one, or None for what is no tensor


def compressed(labels: Tensor) -> Tensor:
    """Return labels with every axis along which they do not change cut to length 1."""
    for axis in range(labels.ndim):
        if labels.shape[axis] <= 1:
            continue
        first = labels.narrow(axis, 0, 1)
        if labels.stride(axis) == 0 or bool((labels == first).all()):
            labels = first
    return labels


def varying(labels: Tensor) -> list[int]:
    return [axis for axis, length in enumerate(compressed(labels).shape) if length > 1]


def along(labels: Tensor, axis: int) -> Tensor:
    """Return labels as a vector over an axis, where they change along no other; else zeros."""
    small = compressed(labels)
    if small.numel() == 1:
        return small.flatten().expand(labels.shape[axis])
    return small.flatten() if small.numel() == small.shape[axis] else small.new_zeros(labels.shape[axis])


def spread(vector: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Return labels of a shape that change along one axis only, as a view."""
    sizes = [1] * len(shape)
    sizes[axis] = len(vector)
    return vector.reshape(sizes).expand(*shape)


def line(labels: Tensor, axis: int) -> Tensor:
    """Return what stands along an axis at the first place of all others."""
    return labels.movedim(axis, -1)[(0,) * (labels.ndim - 1)]


def like(value: Any, make: Callable[[Tensor], Tensor]) -> Labels:
    """Return what `make` gives for every tensor of a value, in the same tuples."""
    if isinstance(value, tuple | list):
        return tuple(like(part, make) for part in value)
    return make(value) if isinstance(value, Tensor) else None


def zeros(value: Any) -> Labels:
    """Return labels of a value of which nothing can go."""
    return like(value, lambda part: torch.zeros((), dtype=torch.long).expand(part.shape))


def leaving(labels: Tensor, gone: Tensor) -> Tensor:
    """Return what goes (bool) of a tensor by its labels, axes along which that does not change cut to length 1."""
    return compressed(gone[compressed(labels)])


def kept_labels(labels: Tensor, gone: Tensor) -> Tensor:
    """Return the labels of what is left of a tensor when the labels that `gone` (per label) marks are taken out."""
    goes = leaving(labels, gone)
    axes = varying(goes)
    if len(axes) > 1:
        raise ValueError("what goes is no whole slice")
    return labels.index_select(axes[0], torch.nonzero(~goes.flatten()).flatten()) if axes else labels


class Units:
    """Units of a network, which of them are linked and which must stay."""

    def __init__(self, known: "Units | None" = None) -> None:
        self.count: int = 0 if known is None else known.count
        # Per label, whether a layer makes it.
        self.made: Tensor = torch.zeros(1, dtype=torch.bool) if known is None else known.made
        self._links: list[Tensor] = []
        self._fixed: list[Tensor] = []
        self._roots: Tensor | None = None

    def fresh(self, count: int, *, is_made: bool) -> Tensor:
        """Return labels (count,) of new units, made by a layer or stored as they are."""
        start, self.count, self._roots = self.count + 1, self.count + count, None
        self.made = torch.cat([self.made, torch.full((count,), is_made)])
        return torch.arange(start, start + count)

    def link(self, first: Tensor, second: Tensor) -> None:
        """Note that units at the same place of two label tensors, whose shapes broadcast, go together or not at all."""
        first, second = (each.flatten() for each in torch.broadcast_tensors(first, second))  # type: ignore[no-untyped-call]
        both = (first > 0) & (second > 0)
        pairs = torch.stack([first[both], second[both]])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if pairs.numel():
            self._links.append(torch.unique(pairs, dim=1))
            self._roots = None
        self.fix(torch.cat([first[(second == 0)], second[(first == 0)]]))

    def settled(self, labels: Tensor) -> Tensor:
        """Tie units of a tensor, so that whole slices go along the axis on which most differ; return its labels."""
        small = compressed(labels)
        axes = [axis for axis, length in enumerate(small.shape) if length > 1]
        if len(axes) < 2 or not bool(self.made[small].any()):
            return small.expand(labels.shape)
        keep = max(axes, key=lambda axis: (len(torch.unique(line(small, axis))), axis == small.ndim - 1))
        for axis in axes:
            if axis != keep:
                self.link(small.narrow(axis, 0, 1), small)
        return spread(line(small, keep), keep, labels.shape)

    def fix(self, labels: Tensor) -> None:
        labels = compressed(labels).flatten()
        labels = labels[labels > 0]
        if labels.numel():
            self._fixed.append(torch.unique(labels))
            self._roots = None

    def roots(self) -> Tensor:
        """Return, per label (count + 1,), the name of its linked set: the least unit in it, or 0 where it must stay."""
        if self._roots is not None:
            return self._roots
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        size = self.count + 1
        pairs = torch.cat([*self._links, torch.zeros(2, 0, dtype=torch.long)], dim=1).numpy()
        graph = coo_array((torch.ones(pairs.shape[1]).numpy(), (pairs[0], pairs[1])), shape=(size, size))
        _, sets = connected_components(graph, directed=False)
        names = torch.as_tensor(sets, dtype=torch.long)
        least = torch.full((int(names.max()) + 1,), size).scatter_reduce(0, names, torch.arange(size), "amin")
        fixed = torch.cat([torch.zeros(1, dtype=torch.long), *self._fixed])
        least[names[fixed]] = 0
        self._roots = least[names]
        return self._roots
