"""The header of a safetensors file, read and checked before anything is allocated."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from iqa_armor.artifact import checks
from iqa_armor.artifact.checks import FormatError, expect_fields, shown

METADATA_KEY = "iqa_armor"
DTYPES: dict[str, torch.dtype] = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}
NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Data type (a key of `DTYPES`) and size of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: Tensor) -> TensorInfo:
        """Return what a file that stores this tensor says of it."""
        return cls(NAME_OF_DTYPE[value.dtype], tuple(value.shape))


def parse_json(text: str | bytes) -> object:
    """Return parsed JSON of bounded depth, without duplicate keys, NaN or infinities."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise FormatError(f"its JSON is nested more than {checks.MAX_JSON_DEPTH} deep") from error
    except ValueError as error:  # broken syntax, broken UTF-8, numbers of thousands of digits
        raise FormatError(f"its JSON is broken: {error}") from error
    _check_depth(value)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common()
        raise FormatError(f"its JSON has the name {shown(twice)} twice")
    return found


def _no_constant(text: str) -> object:
    raise FormatError(f"its JSON holds {text}")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(checks.MAX_JSON_DEPTH):
        containers = [outer for outer in level if isinstance(outer, dict | list)]
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return
    raise FormatError(f"its JSON is nested more than {checks.MAX_JSON_DEPTH} deep")


def read_header(path: Path) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    """Return metadata and tensors of a safetensors file whose header declares just the bytes that the file has."""
    metadata, entries, data_bytes = read_entries(path)
    if len(entries) > checks.MAX_TENSORS:
        raise FormatError(f"it declares {len(entries)} tensors; at most {checks.MAX_TENSORS} are allowed")
    spans = {name: _tensor(name, entry) for name, entry in entries.items()}
    position = 0
    for name, (_, start, end) in sorted(spans.items(), key=lambda item: item[1][1:]):
        if start != position:
            raise FormatError(f"the bytes of tensor {shown(name)} overlap others or leave a gap")
        position = end
    if position != data_bytes:
        state = "truncated" if position > data_bytes else "damaged"
        raise FormatError(f"it is {state}: its header declares {position} bytes of tensors, {data_bytes} are there")
    elements = sum(math.prod(info.shape) for info, _, _ in spans.values())
    if elements > checks.MAX_ELEMENTS:
        raise FormatError(f"its tensors have {elements} elements together; at most {checks.MAX_ELEMENTS} are allowed")
    return metadata, {name: info for name, (info, _, _) in spans.items()}


def read_entries(path: Path) -> tuple[dict[str, str], dict[str, object], int]:
    """Return metadata and tensor entries of the header, which are not looked at, and the number of bytes after it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise FormatError(f"it is truncated: {size} bytes hold no safetensors header")
        (length,) = struct.unpack("<Q", start)
        if length > size - 8:
            raise FormatError(f"it is truncated or no safetensors file: {length} bytes of header in a file of {size}")
        if length > checks.MAX_HEADER_BYTES:
            raise FormatError(f"its header has {length} bytes; at most {checks.MAX_HEADER_BYTES} are allowed")
        header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise FormatError("it has a wrong header: not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FormatError("it has a wrong header: metadata must map names to text")
    return metadata, header, size - 8 - length


def _tensor(name: str, entry: object) -> tuple[TensorInfo, int, int]:
    fields = expect_fields(entry, {"dtype", "shape", "data_offsets"}, f"tensor {shown(name)}")
    info = tensor_info(name, fields["dtype"], fields["shape"])
    offsets = fields["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise FormatError(f"tensor {shown(name)} has wrong offsets {shown(offsets)}")
    start, end = offsets
    needed = math.prod(info.shape) * DTYPES[info.dtype].itemsize
    if start < 0 or end - start != needed:
        raise FormatError(f"tensor {shown(name)} declares {needed} bytes but occupies {end - start}")
    return info, start, end


def tensor_info(name: str, dtype: object, shape: object) -> TensorInfo:
    """Return the checked data type and size of a declared tensor."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(f"tensor {shown(name)} has the unknown data type {shown(dtype)}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise FormatError(f"tensor {shown(name)} has the wrong size {shown(shape)}")
    if max(shape, default=0) > checks.MAX_ELEMENTS or math.prod(shape) > checks.MAX_ELEMENTS:
        raise FormatError(f"tensor {shown(name)} declares more than {checks.MAX_ELEMENTS} elements: {shown(shape)}")
    return TensorInfo(dtype, tuple(shape))
