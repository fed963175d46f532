"""From a quality model to a captured graph, images in [0, 1] in, scores out; what a format is, and torch's own."""

from __future__ import annotations

import copy
import io
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from iqa_armor.errors import ArmorError, UsageError, failing
from iqa_armor.export import FORMATS
from iqa_armor.models.base import QualityModel
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.layer import OrthogonalConv2d

if TYPE_CHECKING:
    from iqa_armor.export.onnx import Smaller

CHATTY = ("torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript", "onnx_ir")
_ALONE = threading.RLock()  # two exporters would give back each other's settings
Size = tuple[int | None, int | None]  # (H, W), None where that side is free
Sizes = dict[str, set[tuple[int, int]]]
METADATA_KEY = "iqa_armor"
EXTRA_FILE = f"{METADATA_KEY}.json"
INPUT, OUTPUT = "images", "scores"
Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Captured:
    """A captured graph and what it accepts."""

    program: ExportedProgram  # takes `images` (N, 3, H, W) float32 in [0, 1], gives scores (N,)
    size: Size


class Scorer(nn.Module):
    """A network behind the normalisation of a quality model, without that one's checks."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, model: QualityModel) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", model.mean.detach().clone())
        self.register_buffer("std", model.std.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.network((images - self.mean) / self.std)
        return scores.reshape(-1)


def layer_sizes(model: QualityModel, images: Tensor) -> Sizes:
    """Return the map sizes (H, W) that reach each orthogonal layer, by qualified name in `model.network`."""
    names = {layer: name for name, layer in model.network.named_modules() if isinstance(layer, OrthogonalConv2d)}
    sizes: Sizes = {name: set() for name in names.values()}

    def note(layer: OrthogonalConv2d, inputs: tuple[Tensor, ...]) -> None:
        sizes[names[layer]].add((inputs[0].shape[-2], inputs[0].shape[-1]))

    with ExitStack() as hooks:
        for layer in names:
            hooks.enter_context(layer.register_forward_pre_hook(note))
        eager_scores(model, images)
    return sizes


def eager_scores(model: QualityModel, images: Tensor) -> Tensor:
    """Return a model's own scores (N,) of images (N, 3, H, W)."""
    advice = "give the size that it takes with --input-size HEIGHTxWIDTH"
    with failing(f"{model.name} fails on images {tuple(images.shape)}", advice=advice), torch.no_grad():
        return model(images)  # type: ignore[no-any-return]


def plain_scorer(model: QualityModel, sizes: Sizes) -> Scorer:
    """Return a copy of a model whose orthogonal layers are folded into plain operations at what `layer_sizes` found."""
    holder = nn.ModuleDict({"network": copy.deepcopy(model.network)})
    blocks = {name: module for name, module in holder.named_modules() if isinstance(module, RobustBlock)}
    layers = {name: module for name, module in holder.named_modules() if isinstance(module, OrthogonalConv2d)}
    for name, layer in layers.items():
        found = sizes[name.removeprefix("network").removeprefix(".")]
        if len(found) != 1 and not layer.fits_any_size:
            used = ", ".join("{}x{}".format(*size) for size in sorted(found)) or "none"
            told = f"the layer {name} ({type(layer).__name__}) serves one map size in an export"
            raise ArmorError(f"{told}, but this model uses it at {used}")
        parent = name.rpartition(".")[0]
        place, folded = (parent, blocks[parent]) if parent in blocks else (name, layer)
        holder.set_submodule(place, folded.plain(min(found, default=(1, 1))))
    return Scorer(holder["network"], model).eval()


def capture(scorer: Scorer, images: Tensor, *, is_dynamic: bool) -> Captured:
    """Return the graph of a plain scorer for images such as these (N ≥ 2, 3, H, W); dynamic, for other sizes too."""
    free: dict[int, Any] = {0: Dim.DYNAMIC(min=1)} | ({2: Dim.AUTO, 3: Dim.AUTO} if is_dynamic else {})
    with failing("torch.export cannot capture this network"), torch.no_grad(), quiet():
        program = torch.export.export(scorer, (images,), dynamic_shapes=(free,))
    (placeholder,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    height, width = (side if isinstance(side, int) else None for side in placeholder.meta["val"].shape[2:])
    return Captured(program, (height, width))


class _Others:
    """A stream that takes what other threads than its maker's write."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence exporters, one thread at a time; what others print is shown, their Python warnings are not."""
    with _ALONE, ExitStack() as held, warnings.catch_warnings(), redirect_stdout(_Others(sys.stdout)):
        warnings.simplefilter("ignore")
        for logger in map(logging.getLogger, CHATTY):
            held.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield


@dataclass(frozen=True)
class Format:
    """One kind of file, registered in `iqa_armor.export.FORMATS` under its suffix."""

    name: str  # what reports call it
    needs: tuple[str, ...]  # modules it takes, by import name
    write: Callable[[Captured, Path, str], None]  # writes a captured graph and a text of metadata to a path
    read: Callable[[Path], tuple[str, Score]]  # opens a file; returns its metadata and a function from images to scores
    install: str = ""  # what pip installs for `needs`, if it has another name
    beside: str = ""  # suffix of a second file that it writes beside the first
    shrink: Callable[[Path, Smaller], None] | None = None  # rewrites a file in fewer bits, where the format can

    def files(self, path: Path) -> list[Path]:
        return [path, *([path.with_suffix(self.beside)] if self.beside else [])]


def format_of(path: Path) -> Format:
    """Return the format that a file's name asks for, once everything it takes is installed."""
    if not FORMATS.knows(path.suffix[1:]):
        names = " or ".join(f"OUT.{name}" for name in FORMATS)
        raise UsageError(f"an export is named {names}, and {path.name!r} is not")
    chosen = FORMATS.read(path.suffix[1:])
    missing = [name for name in chosen.needs if find_spec(name) is None]
    if missing:
        wanted = chosen.install or " ".join(missing)
        raise ArmorError(f"{chosen.name} takes {', '.join(missing)}, not installed here; run pip install {wanted}")
    return chosen


def write(captured: Captured, path: Path, metadata: str) -> None:
    archive = io.BytesIO()
    with failing("torch.export cannot store this network"), quiet():
        # Into memory: where a disk is full, torch's own writer of files ends the process.
        torch.export.save(captured.program, archive, extra_files={EXTRA_FILE: metadata})
    path.write_bytes(archive.getbuffer())


def read(path: Path) -> tuple[str, Score]:
    extra = {EXTRA_FILE: ""}
    with failing("torch.export refuses the exported file"), quiet():
        module = torch.export.load(path, extra_files=extra).module()

    def score(images: Tensor) -> Tensor:
        with failing(f"the exported file fails on images {tuple(images.shape)}"), torch.no_grad():
            return module(images)  # type: ignore[no-any-return]

    text = extra[EXTRA_FILE]
    return text.decode() if isinstance(text, bytes) else text, score


PT2 = Format("torch.export", (), write, read)
