"""Every reader of strangers' files: files that it reads, how they are damaged, what is done with them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from artifact_forgery import honest_artifact
from mutation import (
    Mutator,
    changed_archive,
    changed_json,
    changed_lines,
    changed_png,
    changed_tensors,
    changed_text,
    damaged,
)
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from iqa_armor.errors import ArmorError


@dataclass(frozen=True)
class Reader:
    """`seeds` writes whole files into a folder; `read` raises nothing but ArmorError, whatever is in one."""

    seeds: Callable[[Path], Iterator[Path]]
    mutator: Mutator
    read: Callable[[Path], object]
    needs: str = ""  # a package
    share: float = 1.0  # of the inputs of others in the short run, where each takes long


def _artifacts(folder: Path) -> Iterator[Path]:
    from iqa_armor.artifact.storage import save_artifact
    from iqa_armor.models.base import Preprocessing, QualityModel

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 1)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.gain = nn.Parameter(torch.ones(1, 1, 8))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.norm(self.cut(images).flatten(2).transpose(1, 2)) * self.gain
            mixed = self.attention(tokens, tokens, tokens)[0] + torch.sigmoid(tokens)
            return self.head(torch.cat([mixed, tokens], 1).mean(1))

    yield honest_artifact(folder / "honest.safetensors")
    torch.manual_seed(0)
    for name, size in (("attending", (16, 16)), ("any", None)):
        network = (
            Attending() if size else nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        )
        if not size:
            network = nn.Sequential(*network, nn.Flatten(), nn.Linear(4, 1))
        path = folder / f"{name}.safetensors"
        save_artifact(QualityModel(network.eval(), Preprocessing(size=size), name=name), path)
        yield path


def _score(path: Path) -> object:
    from iqa_armor.artifact.storage import load_artifact, read_metadata

    read_metadata(path)
    return load_artifact(path).score(torch.full((3, 24, 24), 0.5))


def _states(folder: Path) -> Iterator[Path]:
    torch.manual_seed(0)
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    more = {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}, "name": "x"}
    for name, content, options in (
        ("plain", state, {}),
        ("nested", more, {}),
        ("legacy", more, {"_use_new_zipfile_serialization": False}),
    ):
        torch.save(content, folder / f"{name}.pt", **options)
        yield folder / f"{name}.pt"


def _tensors(folder: Path) -> Iterator[Path]:
    path = folder / "state.safetensors"
    save_file({"weight": torch.rand(4, 3), "steps": torch.arange(3), "half": torch.rand(2).half()}, path, {"note": "x"})
    yield path


def _checkpoint(path: Path) -> object:
    from iqa_armor.models.checkpoints import read_checkpoint

    return read_checkpoint(path)


def _resumed(folder: Path) -> Iterator[Path]:
    from iqa_armor.training.checkpoint import Checkpoint

    path = folder / "training.pt"
    Checkpoint(path, {"model": "a"}).write({"epoch": 1, "weights": {"w": torch.rand(3)}, "losses": [0.1, 0.2]})
    yield path


def _resume(path: Path) -> object:
    from iqa_armor.training.checkpoint import Checkpoint

    return Checkpoint(path, {"model": "a"}, resumes=True).read()


def _written(name: str, *texts: str) -> Callable[[Path], Iterator[Path]]:
    def write(folder: Path) -> Iterator[Path]:
        for number, text in enumerate(texts):
            path = folder / f"{number}{name}"
            path.write_bytes(text.encode())
            yield path

    return write


def _recipe(path: Path) -> object:
    from iqa_armor.cli.recipes import Sources
    from iqa_armor.recipe import Recipe

    sources = Sources([Recipe], str(path), [])
    sources.show([sources.read(Recipe, {})])
    return sources


def _pipeline(path: Path) -> object:
    from iqa_armor.cli.commands.run import read_steps
    from iqa_armor.recipe import read_recipe

    return list(read_steps(read_recipe(path), str(path)))


def _pictures(folder: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 8), (len(name), 3, 9)).save(folder / name)


def _sheets(folder: Path) -> Iterator[Path]:
    from openpyxl import Workbook

    book = Workbook()
    for row in (("image", "mos", "split"), ("a.png", 1.5, "train"), ("b.png", 2, "test"), ("c.png", "3", "val")):
        book.active.append(row)
    book.save(folder / "labels.xlsx")
    yield folder / "labels.xlsx"


def _labels(path: Path) -> object:
    from iqa_armor.data.specs import open_dataset

    if not (path.parent / "a.png").exists():
        _pictures(path.parent)
    return open_dataset(f"csv:{path}")


def _matrices(folder: Path) -> Iterator[Path]:
    from scipy.io import savemat

    names = np.empty((3, 1), dtype=object)
    names[:, 0] = ["a.png", "b.png", "c.png"]
    for compressed in (False, True):
        path = folder / f"{compressed}.mat"
        savemat(path, {"dmos": np.arange(3.0), "names": names}, do_compression=compressed)
        yield path


def _matrix(path: Path) -> object:
    from iqa_armor.data.releases import read_variable

    refused = None
    for kind, name in (("numbers", "dmos"), ("texts", "names")):
        try:
            read_variable(kind, path, name)
        except ArmorError as error:
            refused = error
    if refused:
        raise refused
    return None


def _images(*suffixes: str) -> Callable[[Path], Iterator[Path]]:
    def write(folder: Path) -> Iterator[Path]:
        pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 4), dtype=np.uint8)
        for suffix in suffixes:
            for mode in ("RGB", "L", "P", "RGBA", "I;16"):
                try:
                    image = Image.fromarray(pixels).convert(mode.partition(";")[0])
                    exif = Image.Exif()
                    exif[0x0112] = 6
                    image.save(folder / f"{mode[:2]}{suffix}", exif=exif)
                except (OSError, ValueError, KeyError):  # not of that kind
                    continue
                yield folder / f"{mode[:2]}{suffix}"

    return write


def _image(path: Path) -> object:
    from iqa_armor.data.images import read_image

    return read_image(path)


def _exported(folder: Path) -> Iterator[Path]:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()).eval()
    sides = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    program = torch.export.export(network, (torch.rand(2, 3, 16, 24),), dynamic_shapes=sides)
    torch.export.save(program, folder / "network.pt2")
    yield folder / "network.pt2"


def _onnx(folder: Path) -> Iterator[Path]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.random.default_rng(0).random((3, 3, 3, 3), np.float32) / 30, "weight")
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["mixed"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["mixed"], ["gate"]),
        helper.make_node("Mul", ["images", "gate"], ["purified"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, "h", "w"]) for n in ("images", "purified")]
    model = helper.make_model(
        helper.make_graph(nodes, "gate", ends[:1], ends[1:], [weight]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, folder / "network.onnx")
    yield folder / "network.onnx"


def _network(path: Path) -> object:
    from iqa_armor.defenses.purifiers.network_file import NetworkFile

    return NetworkFile(path=str(path)).load()


def _filters(folder: Path) -> Iterator[Path]:
    from iqa_armor.defenses.purifiers.fcn import new_fcn, save_fcn

    save_fcn(new_fcn(0), folder / "fcn.safetensors", provenance={"epochs": 3})
    yield folder / "fcn.safetensors"


def _filter(path: Path) -> object:
    from iqa_armor.defenses.purifiers.fcn import load_fcn

    return load_fcn(path)


def _outcomes(folder: Path) -> Iterator[Path]:
    kept = Path(__file__).parents[1] / "data" / "legacy" / "outcome.json"
    path = folder / "outcome.json"
    path.write_bytes(kept.read_bytes())
    yield path


def _outcome(path: Path) -> object:
    from iqa_armor.pipeline.card import read_outcome

    return read_outcome(path)


def _journals(folder: Path) -> Iterator[Path]:
    from iqa_armor.evaluation.journal import Block, Journal
    from iqa_armor.results.table import Table

    journal = Journal(folder / "kept", identity={"seed": 0, "data": {"a": [1, 2]}})
    for number in range(2):
        rows = Table.of(2, image=["a", "b"], attack="clean", score=[0.5, 1.5])
        journal.add("part", Block(number, "digest", rows))
    yield folder / "kept" / "part.0.jsonl"
    yield folder / "kept" / "identity.json"


def _journal(path: Path) -> object:
    from iqa_armor.evaluation.journal import Journal

    folder = path.with_name("journal")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    is_identity = path.suffix == ".json"
    (folder / ("identity.json" if is_identity else "part.0.jsonl")).write_bytes(path.read_bytes())
    journal = Journal(folder, identity={"seed": 0, "data": {"a": [1, 2]}})
    return journal.finished("part")


def _rows(path: Path) -> object:
    from iqa_armor.results.rows import RowFile

    kind: Any = path.suffix[1:]
    with RowFile(path, kind, ("image", "score"), resume=True) as kept:
        return kept.done


def _parquet(folder: Path) -> Iterator[Path]:
    from iqa_armor.results.rows import RowFile

    with RowFile(folder / "kept.parquet", "parquet", ("image", "score")) as rows:
        rows.add({"image": "a.png", "score": 1.5})
    yield folder / "kept.parquet"


def _states_of_runs(path: Path) -> object:
    from iqa_armor.pipeline.steps import Pipeline

    return Pipeline([], folder=path.parent, state=path).run(dry=True)


WORDS = (
    "pgd:steps=4,step_size=0.01",
    "jpeg:quality=50+median:size=3",
    "mymodel.srocc>=0.8",
    "csv:labels.csv",
    "folder:pictures",
    "package.module:NAME:steps=8",
    "apgd",
    "nips2017:",
    "hf:owner/name",
)


def _words(path: Path) -> object:
    from iqa_armor.attacks import ATTACKS
    from iqa_armor.data.specs import open_dataset
    from iqa_armor.defenses.base import read_purifier
    from iqa_armor.machine import prepare_memory
    from iqa_armor.results.requirements import parse_requirement

    word = path.read_bytes().decode(errors="replace")
    if ".py" in word or word.partition(":")[0] in ("synthetic", "demo"):  # a user's own code; made, not read
        return None
    kept, refused = os.environ.get("IQA_ARMOR_MAX_MEMORY", ""), []
    readers = (read_purifier, parse_requirement, open_dataset, ATTACKS.read, prepare_memory)
    for read in readers:
        try:
            read(word)
        except ArmorError as error:
            refused.append(error)
        finally:
            os.environ["IQA_ARMOR_MAX_MEMORY"] = kept
    if len(refused) == len(readers):
        raise refused[0]
    return None


RECIPE = 'prune = 0.1\nbackend = "cayley"\nepochs = 2\nposition = "auto"\nlearning_rate = 1e-4\n'
RUN = """[harden]
model = "m.pt"
data = "csv:x.csv"
output = "o.safetensors"
prune = 0.1
[evaluate]
models = ["o.safetensors"]
"""
LABELS = "image,mos,split\na.png,1.5,train\nb.png,2,test\nc.png,3,val\n"
STATE = json.dumps({"schema": "iqa-armor/run/1", "steps": {"harden": {"key": "abc", "made": {"o": "d"}}}})

READERS: dict[str, Reader] = {
    "artifact": Reader(_artifacts, changed_tensors, _score),
    "state": Reader(
        lambda folder: (path for path in _states(folder) if path.stem != "legacy"), changed_archive, _checkpoint
    ),
    "legacy-state": Reader(
        lambda folder: (path for path in _states(folder) if path.stem == "legacy"), damaged, _checkpoint
    ),
    "tensors": Reader(_tensors, changed_tensors, _checkpoint),
    "training-state": Reader(_resumed, changed_archive, _resume),
    "recipe": Reader(_written(".toml", RECIPE), changed_text, _recipe, share=0.5),
    "pipeline": Reader(_written(".toml", RUN), changed_text, _pipeline),
    "pipeline-state": Reader(_written(".json", STATE), changed_json, _states_of_runs),
    "labels": Reader(_written(".csv", LABELS, LABELS.replace(",", ";")), changed_text, _labels),
    "sheet": Reader(_sheets, changed_archive, _labels, "openpyxl", share=0.3),
    "matrix": Reader(_matrices, damaged, _matrix),
    "png": Reader(_images(".png"), changed_png, _image),
    "image": Reader(_images(".jpg", ".bmp", ".tiff", ".webp", ".gif", ".ppm"), damaged, _image),
    "onnx": Reader(_onnx, damaged, _network, "onnxruntime", share=0.5),
    "pt2": Reader(_exported, changed_archive, _network, share=0.3),
    "filter": Reader(_filters, changed_tensors, _filter),
    "outcome": Reader(_outcomes, changed_json, _outcome),
    "journal": Reader(_journals, changed_lines, _journal),
    "rows": Reader(_written(".csv", "image,score\r\na.png,1.5\r\nb.png,2.5\r\n"), changed_text, _rows),
    "row-lines": Reader(
        _written(".jsonl", '{"image": "a", "score": 1.5}\n{"image": "b", "score": 2}\n'), changed_lines, _rows
    ),
    "row-table": Reader(_parquet, damaged, _rows, "pyarrow"),
    "words": Reader(_written(".txt", *WORDS), changed_text, _words),
}


UNWRITABLE = (ValueError, TypeError, LookupError, RuntimeError, OSError, zipfile.error, zlib.error, struct.error)


def is_usable(reader: Reader) -> bool:
    """Return whether what a reader needs is installed."""
    return not reader.needs or importlib.util.find_spec(reader.needs) is not None


@dataclass
class Fuzzed:
    """A reader with its files in a folder; `__call__` reads one damaged file, told by a number."""

    name: str
    folder: Path

    def __post_init__(self) -> None:
        self.reader = READERS[self.name]
        (self.folder / "seeds").mkdir(parents=True, exist_ok=True)
        self.files = [(path.suffix, path.read_bytes()) for path in self.reader.seeds(self.folder / "seeds")]
        self.plain = 0  # files of which bytes alone were changed, since what they mean could not be

    def damaged(self, seed: int) -> Path:
        """Write the damaged file of a number."""
        from random import Random

        rng = Random(seed)
        suffix, content = rng.choice(self.files)
        for _ in range(5):
            try:
                made = self.reader.mutator(rng, content)
                break
            except (
                ValueError,
                TypeError,
                LookupError,
                RecursionError,
                RuntimeError,
                zipfile.error,
                OSError,
                zlib.error,
            ):
                continue  # what it was changed to cannot be written
        else:
            made, self.plain = damaged(rng, content), self.plain + 1
        (self.folder / "given").mkdir(exist_ok=True)
        path = self.folder / "given" / f"damaged{suffix}"
        path.write_bytes(made)
        return path

    def read(self, path: Path) -> str:
        """Return how reading a file ended: "read" or "refused"; anything else is raised."""
        try:
            with redirect_stdout(io.StringIO()):
                self.reader.read(path)
        except ArmorError as error:
            return "refused" if str(error).strip() else "refused without a word"
        return "read"
