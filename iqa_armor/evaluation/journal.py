"""Results per block of images: kept on disk, so that an evaluation can go on, and shared by several processes."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from iqa_armor.errors import DataError, OutputError, contents, reading
from iqa_armor.files import cut_unfinished, refusing, remove_abandoned, write_whole
from iqa_armor.machine import launched
from iqa_armor.models.base import QualityModel, state_digest
from iqa_armor.results.table import Table

SCHEMA = "iqa-armor/journal/3"


@dataclass(frozen=True)
class Block:
    """The rows of the table that some consecutive images of a set gave, without model, dataset and opinion."""

    number: int  # its position in the set
    digest: str  # of the images as the network saw them
    rows: Table


@dataclass(frozen=True)
class Shard:
    """One of `count` processes of `accelerate launch` that share the blocks of an evaluation; `rank` is from 0."""

    rank: int = 0
    count: int = 1

    def gather(self, mine: dict[int, Block]) -> dict[int, Block]:
        """Return what all processes have, the same in each; every process must call it."""
        if self.count == 1:
            return mine
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, mine)
        return {number: item for part in parts for number, item in part.items()}


def current_shard(device: torch.device) -> Shard:
    """Return the share of this process: all of it unless a launcher has started several that talk over this device."""
    if launched()[1] == 1:
        return Shard()
    from accelerate.state import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return Shard(state.process_index, state.num_processes)


class Journal:
    """Finished blocks of an evaluation by part, a model on a dataset, in files of each process, if there is a folder.

    `identity` is what all results follow from: data, settings, versions; a folder of something else is a DataError.
    """

    def __init__(
        self, folder: Path | None = None, *, identity: Mapping[str, Any] | None = None, shard: Shard | None = None
    ) -> None:
        self.folder, self.shard, self._opened = folder, shard or Shard(), set[Path]()
        if folder is not None:
            _claim(folder, json.loads(json.dumps({"schema": SCHEMA, **(identity or {})})))

    def finished(self, part: str) -> dict[int, Block]:
        """Return the blocks of a part that any process has finished; a last line cut short is left out."""
        found: dict[int, Block] = {}
        for path in [] if self.folder is None else sorted(self.folder.glob(f"{part}.*.jsonl")):
            with reading(path, DataError, advice="remove it, its images are then evaluated again"):
                lines = contents(path, 2**30).decode().splitlines(keepends=True)
                found |= {block.number: block for block in (_read(line) for line in lines if line.endswith("\n"))}
        return found

    def add(self, part: str, block: Block) -> None:
        """Keep a block; it is on the disk when this returns, and JSON keeps float64 to the last bit."""
        if self.folder is None:
            return
        path = self.folder / f"{part}.{self.shard.rank}.jsonl"
        text = json.dumps({"number": block.number, "digest": block.digest, "rows": block.rows.as_plain()})
        with refusing(self.folder):
            if path not in self._opened:
                cut_unfinished(path)
                self._opened.add(path)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{text}\t{_short_digest(text.encode())}\n")
                file.flush()
                os.fsync(file.fileno())


def digest_of(parts: Sequence[Tensor]) -> str:
    """Return a digest of images (N, 3, H, W): 16 hexadecimal digits for each part of one size."""
    return "-".join(_short_digest(images.contiguous().cpu().numpy().tobytes()) for images in parts)


def model_digest(model: QualityModel) -> str:
    """Return a digest (16 hexadecimal digits) of a model's graph or modules, state, preprocessing and score range."""
    program = model.network.code if isinstance(model.network, fx.GraphModule) else ""
    sizes = [f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in sorted(model.state_dict().items())]
    layers = [f"{name} {type(each).__qualname__} {each.extra_repr()}" for name, each in model.named_modules()]
    known = (*layers, program, repr(model.preprocessing), repr(model.scale), *sizes, state_digest(model))
    return _short_digest("\n".join(known).encode())


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Note what the results in a folder follow from, or check that it is the same."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)  # what stands is not written again, so nobody else would
        path = folder / "identity.json"
        if path.exists():
            with reading(path, DataError, advice=f"remove {folder}, or name another"):
                kept = json.loads(contents(path))
            what = f"evaluation ({_difference(kept, identity)} differs)"
            if isinstance(kept, dict) and kept.get("schema") != SCHEMA:
                what = f"version of iqa-armor ({kept.get('schema')}), which kept them otherwise"
            if kept != identity:
                raise DataError(f"{folder} holds results of another {what}; name another folder, or remove this one")
            return
        write_whole(path, json.dumps(identity, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"cannot keep results in {folder}: {error.strerror or error}; name another folder") from error


def _difference(kept: Any, identity: Mapping[str, Any]) -> str:
    """Return the first place, in dotted form, at which two identities differ."""
    for key in sorted({*kept, *identity}) if isinstance(kept, dict) else ():
        mine, other = identity.get(key), kept.get(key)
        if mine != other:
            is_deeper = isinstance(mine, dict) and isinstance(other, dict)
            return f"{key}.{_difference(other, mine)}" if is_deeper else str(key)  # type: ignore[arg-type]
    return "its content"


def _read(line: str) -> Block:
    text, _, checksum = line.rstrip("\n").rpartition("\t")
    if checksum != _short_digest(text.encode()):
        raise ValueError("a line is not what was written")
    found = json.loads(text)
    return Block(found["number"], found["digest"], Table.from_plain(found["rows"]))


def _short_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
