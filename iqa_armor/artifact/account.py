"""What a run without memory would take: bytes that are there at once, workspaces included, and operations."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from iqa_armor.artifact.limits import MAX_OPERATIONS, FormatError

# Operations for an element: what these take beside arithmetic, in the time that a multiplication in a product takes.
PLAIN, SLOW, SINGULAR = 16, 64, 200
_PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}  # where their first matrix stands
_WINDOWS = ("aten::max_pool2d_with_indices", "aten::avg_pool2d", "aten::avg_pool3d", "aten::max_pool3d_with_indices")


class Account(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses a run on the meta device, while it is active, that would take too much.

    Args:
        most_bytes: Bytes that its tensors may take together.
        stored: Tensors that it may read but not change.

    `draws` says whether it has drawn random numbers.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, which takes a second, to tell it of this class

    def __init__(self, most_bytes: int, stored: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws = False
        self._most_bytes, self._stored = most_bytes, list(stored)
        self._kept = {value.untyped_storage()._cdata for value in self._stored}
        self._versions = [value._version for value in self._stored]
        self._live: dict[int, tuple[Any, int]] = {}
        self._bytes = self._operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what an operator makes, once it is entered."""
        made = func(*args, **(kwargs or {}))
        name, outputs = func._schema.name, _tensors(made)
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags
        if name == "aten::native_batch_norm" and args[5] and args[3] is not None:
            self._refuse_change(args[3].untyped_storage()._cdata in self._kept)
        if outputs and not any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns):
            self.spend(_operations(name, args, outputs))
            self._take(outputs, _workspace(name, args, outputs[0]))
        return made

    def spend(self, operations: int) -> None:
        """Enter operations."""
        self._operations += operations
        if self._operations > MAX_OPERATIONS:
            raise FormatError(f"its graph takes more than {MAX_OPERATIONS:.0e} operations for an image")

    def close(self) -> None:
        """Refuse a run that has changed what was to be read only."""
        self._refuse_change(self._versions != [value._version for value in self._stored])

    def _refuse_change(self, has_changed: bool) -> None:
        if has_changed:
            raise FormatError("its graph changes its own stored tensors, so that an image's score would change too")

    def _take(self, outputs: list[Tensor], workspace: int) -> None:
        for value in outputs:
            storage = value.untyped_storage()
            reference, _ = self._live.get(storage._cdata, (None, 0))
            if storage._cdata not in self._kept and (reference is None or reference.expired()):
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
                self._bytes += storage.nbytes()
        if self._bytes + workspace > self._most_bytes:  # some of it may be gone
            self._live = {place: each for place, each in self._live.items() if not each[0].expired()}
            self._bytes = sum(size for _, size in self._live.values())
        if self._bytes + workspace > self._most_bytes:
            taken, left = (size / 2**30 for size in (self._bytes + workspace, self._most_bytes))
            raise FormatError(f"its graph takes {taken:.1f} GiB at once, and {left:.1f} GiB are left of --max-memory")


def _tensors(made: Any) -> list[Tensor]:
    if isinstance(made, Tensor):
        return [made]
    return [value for part in made for value in _tensors(part)] if isinstance(made, list | tuple) else []


def _operations(name: str, args: Any, outputs: list[Tensor]) -> Any:
    made = outputs[0].numel()
    if name == "aten::convolution":
        moved = args[0].numel() if args[6] else made
        return 2 * moved * args[1].numel() // max(len(args[1]), 1)
    if name in _PRODUCTS:
        return 2 * made * args[_PRODUCTS[name]].shape[-1]
    largest = max(value.numel() for value in (*outputs, *_tensors(list(args))))
    if name == "aten::_trilinear":
        return 2 * len(args[0]) * args[1].numel()
    if name in _WINDOWS:
        return made * math.prod(args[1]) + PLAIN * largest
    if name.startswith(("aten::_linalg", "aten::linalg_")) and name != "aten::linalg_vector_norm":
        return (SINGULAR if "svd" in name else 4) * largest * min(args[0].shape[-2:])
    return (SLOW if "fft" in name or "sort" in name else PLAIN) * largest


def _workspace(name: str, args: Any, made: Tensor) -> Any:
    """Return bytes that an operator takes while it runs, where they may be many times those of its tensors."""
    if name == "aten::convolution":
        images, weight, _, strides, _, _, is_transposed, more, _ = args
        fits = all(extra < stride for extra, stride in zip(more, strides, strict=False))
        if images.dtype in (torch.float32, torch.bfloat16, torch.float16) and (not is_transposed or fits):
            return 0
        places = (images if is_transposed else made).shape[2:]  # torch writes out the patch at each of these
        return made.itemsize * len(images) * math.prod(places) * weight.numel() // max(len(weight), 1)
    if name == "aten::_trilinear":
        return made.itemsize * len(args[0]) * args[1].numel() // max(len(args[1]), 1)
    if name.endswith("_aa"):  # one axis after the other
        return made.itemsize * made.numel() // made.shape[-2] * args[0].shape[-2]
    return made.nbytes if "fft" in name or "linalg" in name else 0
