"""Export a quality model: capture, write, read back, compare, and only then give the file its name."""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from iqa_armor.data.scenes import render_scene
from iqa_armor.data.synthetic import DISTORTIONS, distort
from iqa_armor.errors import ArmorError, OutputError, UsageError
from iqa_armor.export import capture
from iqa_armor.export.capture import INPUT, OUTPUT, Format, Score, Size, format_of
from iqa_armor.export.onnx import Loss, LossError, Smaller, loss_of
from iqa_armor.files import replacing
from iqa_armor.models.base import QualityModel
from iqa_armor.ortho.layer import OrthogonalConv2d

TOLERANCE = 1e-3
BATCHES = (1, 2, 5)  # of the recorded size
OTHER_BATCH = 2  # of every other size
_SIDES = (64, 256)  # of a rendered scene, which is then resized
OWN_SIZE = (224, 288)  # of the check's images, for a model that leaves theirs alone
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreement:
    """How closely an exported file's scores follow eager ones."""

    largest_error: float  # largest |exported − eager|, in model units
    share_of_range: float
    range: float  # score range that it is measured against
    range_measured_here: bool  # whether that is the spread of the check's own images, the model recording no range
    images: int  # number of images, of these batch sizes and (height, width)
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]


def natural_batches(sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return batches of scenes, float (N, 3, H, W) in [0, 1]: several of the first size (H, W), one of others."""
    height, width = (min(max(side, _SIDES[0]), _SIDES[1]) for side in sizes[0])
    drawn, batches = [], []
    for index, kind in zip(range(max(BATCHES)), DISTORTIONS, strict=False):
        rng = np.random.default_rng([7, index])
        scene = render_scene(rng, height, width)
        drawn.append(distort(scene, kind, severity=0.5, rng=rng) if index % 2 else scene)
    scenes = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255
    for size in sizes:
        fitted = functional.interpolate(scenes, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        batches += [fitted[:count] for count in (BATCHES if size == sizes[0] else (OTHER_BATCH,))]
    return batches


def compare(model: QualityModel, score: Score, batches: Sequence[Tensor]) -> Agreement:
    """Return how a file's scores of images (N, 3, H, W) differ from a model's; ArmorError beyond 1e-3 of the range."""
    expected, given = [capture.eager_scores(model, images) for images in batches], [score(images) for images in batches]
    for images, ours, theirs in zip(batches, expected, given, strict=True):
        if theirs.shape != ours.shape:
            raise ArmorError(f"images {tuple(images.shape)} gave scores {tuple(theirs.shape)} in the exported file")
    eager, exported = torch.cat(expected).double(), torch.cat(given).double()
    error = float((exported - eager).abs().max())
    # Of constant scores a thousandth of their size.
    spread = max(eager.max() - eager.min(), eager.abs().max() / 1000, torch.tensor(1e-12))
    width = float(spread) if model.scale is None else model.scale.width
    share, sizes = error / width, tuple(dict.fromkeys((images.shape[-2], images.shape[-1]) for images in batches))
    if not share <= TOLERANCE:  # NaN fails too
        where = f"{len(eager)} images ({', '.join('{}x{}'.format(*size) for size in sizes)})"
        off = f"up to {error:.3g} on {where}, {share:.2%} of the score range {width:.4g}"
        raise ArmorError(f"the exported file scores differently: {off}; at most {TOLERANCE:.1%} is allowed")
    counts = tuple(sorted({len(images) for images in batches}))
    return Agreement(error, share, width, model.scale is None, len(eager), counts, sizes)


@dataclass(frozen=True)
class Exported:
    """An export that was read back and scores as its model does."""

    path: Path
    format: str  # what its format is called, such as "ONNX"
    size_bytes: int  # with what stands beside it
    size: Size  # that it accepts; the number of images is always free
    fixed_because: str  # why the size is not free, or ""
    check: Agreement  # how the file in full precision agrees with the model
    loss: Loss | None = None  # what the file in fewer bits has lost, if it is one

    def as_plain(self, model: QualityModel) -> dict[str, Any]:
        return ({} if self.loss is None else {"loss": asdict(self.loss)}) | {
            "output": str(self.path),
            "kind": self.format,
            "bytes": self.size_bytes,
            "size_fixed_because": self.fixed_because or None,
            "metadata": described(model, self.size),
            "check": asdict(self.check),
        }


def export_model(model: QualityModel, path: Path | str, *, smaller: Smaller | None = None) -> Exported:
    """Write a model as one of `iqa_armor.export.FORMATS`, a file whose scores were compared with the model's.

    The file takes prepared images (N, 3, H, W), float32 in [0, 1], and gives scores (N,): normalisation is
    inside, the resize is not. Any H × W is accepted where the network allows, but with a layer that is folded
    for one map size (Cayley) only the model's recorded input size. The file appears whole or not at all.

    Args:
        model: Left untouched; exported in eval mode and float32.
        path: In an existing folder; its suffix names the format.
        smaller: The precision in which it is stored, if not in float32, and what that may cost.

    Raises:
        UsageError: If the suffix is that of none, or of one that is stored in float32 only.
        ArmorError: If what the format needs is missing, the network cannot be exported, the exported scores differ by
            more than 1e-3 of the score range, fewer bits lose more than is allowed, or the file cannot be written.
    """
    path = Path(path)
    if format_of(path).shrink is None and smaller is not None:
        raise UsageError(f"only .onnx files can be stored in {smaller.precision}, and {path.name!r} is none")
    model = copy.deepcopy(model).eval().float().cpu().requires_grad_(False)
    layers = [layer for layer in model.network.modules() if isinstance(layer, OrthogonalConv2d)]
    if fixed := [type(layer).__name__ for layer in layers if not layer.fits_any_size]:
        reason = f"a {fixed[0]} layer is exported for one map size"
    else:
        try:
            return _exported(model, path, smaller, fixed_because="")
        except (OutputError, LossError):
            raise
        except ArmorError as error:
            reason = str(error)
            logger.info("exporting for one image size, since for any: %s", reason)
    if model.preprocessing.size is None:
        only = f"this model can be exported for one image size only ({reason}) and records none"
        raise ArmorError(f"{only}; give it with --input-size HEIGHTxWIDTH")
    return _exported(model, path, smaller, fixed_because=reason)


def _exported(model: QualityModel, path: Path, smaller: Smaller | None, *, fixed_because: str) -> Exported:
    size = model.preprocessing.size or OWN_SIZE
    example = torch.zeros(2, 3, *size)
    scorer = capture.plain_scorer(model, capture.layer_sizes(model, example))
    captured = capture.capture(scorer, example, is_dynamic=not fixed_because)
    if not fixed_because and None not in captured.size:
        fixed_because = "the network's graph depends on it"
    chosen, text = format_of(path), json.dumps(described(model, captured.size, smaller))
    with replacing(path, beside=chosen.beside) as unfinished:
        chosen.write(captured, unfinished, text)
        score = _read_back(chosen, unfinished, text)
        check, loss = compare(model, score, natural_batches(_sizes(size, captured.size))), None
        if smaller is not None and chosen.shrink is not None:
            chosen.shrink(unfinished, smaller)
            loss = loss_of(model, _read_back(chosen, unfinished, text), smaller)
        size_bytes = sum(file.stat().st_size for file in chosen.files(unfinished))
        return Exported(path, chosen.name, size_bytes, captured.size, fixed_because, check, loss)


def _read_back(chosen: Format, path: Path, text: str) -> Score:
    stored, score = chosen.read(path)
    if stored != text:
        raise ArmorError("the exported file does not give its metadata back, so it was not kept")
    return score


def _sizes(size: tuple[int, int], accepted: Size) -> list[tuple[int, int]]:
    """Return the recorded size and others, odd sides and the other orientation among them, that should work too."""
    height, width = size
    wanted = [(width, height), (height + height // 4 + 1, width + width // 3 + 2), (height, height)]
    return [*dict.fromkeys([size, *((accepted[0] or rows, accepted[1] or columns) for rows, columns in wanted)])]


def described(model: QualityModel, size: Size, smaller: Smaller | None = None) -> dict[str, object]:
    """Return what a reader of the file must know, as plain values: its metadata, under the key `iqa_armor`."""
    scale = model.scale
    return ({} if smaller is None else {"precision": smaller.precision}) | {
        "format": 1,
        "name": model.name,
        "input": {"name": INPUT, "shape": ["batch", 3, size[0] or "height", size[1] or "width"], "range": [0, 1]},
        "output": {"name": OUTPUT, "shape": ["batch"]},
        "preprocessing": {**asdict(model.preprocessing), "normalization": "inside the graph"},
        "score_range": None if scale is None else [scale.low, scale.high],
        "higher_is_better": model.higher_is_better,
    }
