"""A run of a rebuilt graph without memory: does it fit together, is it a function, does it stay within bounds?"""

import math
import operator
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from iqa_armor.artifact.checks import MAX_LENGTH, MAX_OPERATIONS, FormatError, shown
from iqa_armor.artifact.functions import EXPONENT
from iqa_armor.artifact.quick_sizes import POINTWISE, value_of_call, value_of_layer
from iqa_armor.graph.calls import layer_of, tensors_in
from iqa_armor.graph.interpret import NodeFailure, call_node, interpret
from iqa_armor.machine import memory_limit
from iqa_armor.models.base import KONIQ_SIZE
from iqa_armor.models.outputs import COMPANY, DRAWS
from iqa_armor.ortho.block import RobustBlock

BATCH = 2
MAX_PARTS = 2**18
ANY_SIZE = (224, 224)
# Operations for an element: what these take beside arithmetic, in the time that a multiplication in a product takes.
PLAIN, SLOW, SINGULAR = 16, 64, 200
# Where their first matrix stands.
_PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1, "aten::_cdist_forward": 0}
_WINDOWS = ("aten::max_pool2d_with_indices", "aten::avg_pool2d", "aten::avg_pool3d", "aten::max_pool3d_with_indices")


class Account(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses a run on the meta device, while it is active, whose tensors would take more bytes together.

    It may only read `stored` tensors; it notes whether the run `draws` random numbers, `is_proven` to part images.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, which takes a second, to tell it of this class

    def __init__(self, most_bytes: int, stored: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws, self.is_proven = False, True
        self._most_bytes, self._stored = most_bytes, list(stored)
        self._kept = {value.untyped_storage()._cdata for value in self._stored}
        self._versions = [value._version for value in self._stored]
        self._live: dict[int, tuple[Any, int]] = {}
        self._bytes = self._operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name, outputs = func._schema.name, tensors_in(made)
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags
        if name == "aten::native_batch_norm" and args[5] and args[3] is not None:
            self.check_unchanged(has_changed=args[3].untyped_storage()._cdata in self._kept)
        if outputs and not any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns):
            self.spend(_operations(name, args, outputs))
            self._take(outputs, _workspace(name, args, outputs[0]))
        return made

    def spend(self, operations: int) -> None:
        self._operations += operations
        if self._operations > MAX_OPERATIONS:
            raise FormatError(f"its graph takes more than {MAX_OPERATIONS:.0e} operations for an image")

    def check_unchanged(self, *, has_changed: bool = False) -> None:
        """Refuse a run that has changed what was to be read only."""
        if has_changed or self._versions != [value._version for value in self._stored]:
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


def _operations(name: str, args: Any, outputs: list[Tensor]) -> Any:
    made = outputs[0].numel()
    if name == "aten::convolution":
        moved = args[0].numel() if args[6] else made
        return 2 * moved * args[1].numel() // max(len(args[1]), 1)
    if name in _PRODUCTS:
        return 2 * made * args[_PRODUCTS[name]].shape[-1]
    largest = max(value.numel() for value in (*outputs, *tensors_in(list(args))))
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


def rehearse(network: fx.GraphModule, size: tuple[int, int] | None) -> None:
    """Run a network for two images on the meta device, where tensors have sizes but no values.

    Bounds memory and operations at the recorded image size (height, width), or at usual ones where it takes any, and
    refuses a graph that changes its stored tensors; what it must be asked about later stands in its `meta` then.
    """
    tried = (size,) if size else (ANY_SIZE, KONIQ_SIZE)
    for height, width in tried:
        try:
            scores = _run(network.eval(), height, width)
            break
        except NodeFailure as error:
            if (height, width) == tried[-1]:
                raise FormatError(f"its graph fails on images of {height} × {width}: {shown(str(error))}") from error
    if not isinstance(scores, Tensor) or scores.numel() != BATCH:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise FormatError(f"its graph must give one score per image, but {BATCH} images give {found}")


def _run(network: fx.GraphModule, height: int, width: int) -> Any:
    stored = [*network.parameters(), *network.buffers()]
    scores: Any = None
    left = memory_limit() - sum(value.nbytes for value in stored)
    with torch.no_grad(), torch.device("meta"), Account(left, stored) as account:
        images = torch.empty(BATCH, 3, height, width)
        for node, scores in interpret(network, images, call=partial(_call, account)):
            _check_value(scores, node.name)
        account.check_unchanged()
    network.meta.update({COMPANY: "any" if account.is_proven else "untried", DRAWS: account.draws})
    return scores


def _call(account: Account, traced: fx.GraphModule, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Return what a node gives, unless making it alone could take all memory."""
    if node.target in (operator.mul, operator.imul) and any(isinstance(arg, list | tuple) for arg in args):
        raise FormatError("its graph repeats a list")
    if node.target is operator.pow and isinstance(args[1], int) and abs(args[1]) > EXPONENT:
        raise FormatError(f"its graph raises to a power above {EXPONENT}")
    if node.op != "call_module" and node.target in (torch.split, torch.unbind, "split", "unbind"):
        longest = max((max(each.shape, default=0) for each in tensors_in([*args, *kwargs.values()])), default=0)
        if longest > MAX_PARTS:  # which would give an endless list of slices
            raise FormatError(f"its graph splits a tensor of {longest} along one dimension")
    layer = layer_of(traced, node)
    quick = value_of_call(node.target, args) if layer is None else value_of_layer(layer, args)
    is_flat = layer is None and node.target in (torch.flatten, "flatten") and node.args[1:2] == (1,)
    is_flat |= isinstance(layer, nn.Flatten) and layer.start_dim == 1
    is_apart = is_flat or isinstance(layer, (*POINTWISE, RobustBlock))
    if any(each.op == "get_attr" for each in node.all_input_nodes) or not (is_apart or quick is not None):
        account.is_proven = False
    if kwargs or quick is None:
        return call_node(traced, node, args, kwargs)
    weight, window = getattr(layer, "weight", None), getattr(layer, "kernel_size", 1)
    each = weight.numel() // len(weight) if weight is not None else math.prod(torch.nn.modules.utils._pair(window))
    account.spend(2 * quick.numel() * each)
    return quick


def _check_value(value: object, name: str) -> None:
    if isinstance(value, int) and abs(value) > 2**63:
        raise FormatError(f"node {name!r} makes a number of {value.bit_length()} bits")
    parts = value if isinstance(value, list | tuple) else ()
    if len(parts) > MAX_LENGTH:
        raise FormatError(f"node {name!r} makes a list of {len(parts)} values; {MAX_LENGTH} are allowed")
    for part in parts:
        _check_value(part, name)
