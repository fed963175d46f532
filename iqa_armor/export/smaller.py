"""An exported file in fewer bits: made, and compared with its model in scores, in ranks and under attack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from iqa_armor.attacks.apgd import APGD
from iqa_armor.attacks.base import frozen
from iqa_armor.data.base import Dataset
from iqa_armor.data.prepared import to_float
from iqa_armor.errors import ArmorError, DataError, failing
from iqa_armor.export.capture import INPUT, Score, quiet
from iqa_armor.gradients import straight_through
from iqa_armor.limits import Limited, NotNegative
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, automatic

Precision = Literal["fp16", "int8"]
ATTACK = APGD(epsilon=4 / 255, steps=10)
ATTACKED = 16  # images, the first ones
MAX_LOSS = 0.02


class LossError(ArmorError):
    """A file in fewer bits that loses more than is allowed."""


@dataclass(frozen=True)
class Smaller(Limited):
    """In which precision a file is stored, and what that may cost."""

    precision: Precision
    calibration: Sequence[Tensor]  # prepared training images (3, H, W), from which int8 takes the ranges of activations
    # Other prepared images, at least three, on which file and model are compared; the first are attacked.
    images: Sequence[Tensor]
    # Their opinion scores (N,), or None: then ranks are compared with those of the model itself.
    mos: Tensor | None = None
    # Most that is lost of each: mean error of a score, and what an attack (APGD, 10 steps, ε = 4/255) gains more, as
    # shares of the score range; and rank correlation.
    max_loss: NotNegative = MAX_LOSS
    progress: Progress = field(default=automatic, compare=False, repr=False)

    @classmethod
    def on(
        cls,
        model: QualityModel,
        dataset: Dataset,
        precision: Precision,
        *,
        limit: int,
        max_loss: float = MAX_LOSS,
        progress: Progress = automatic,
    ) -> Smaller:
        """Return what it takes on a dataset: training images for ranges, those that results are reported on to compare.

        Of either at most `limit`, spread over them.
        """
        images, prepare = dataset.reported()[1].limit(limit), to_float if dataset.keeps_size else model.prepare
        if len(images) < 3:
            raise DataError(f"{dataset.spec} has {len(images)} images to compare on; it takes at least 3")
        ranges = dataset.splits.get("training", images).limit(limit) if precision == "int8" else ()
        calibration, compared = ([prepare(part[i]) for i in range(len(part))] for part in (ranges, images))
        return cls(precision, calibration, compared, images.mos, max_loss, progress)

    def each(self, task: str, images: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield images as batches of one, and tell how far that is."""
        for place, image in enumerate(images):
            yield image.unsqueeze(0)
            self.progress(task, place + 1, len(images))


@dataclass(frozen=True)
class Loss:
    """What a file in fewer bits has lost: shares of the score range and of a rank correlation, negative if won.

    `gains` are the mean rises of the score under attack, of the model and of the file, whose gradient is taken to be
    the model's (straight-through).
    """

    precision: Precision
    error: float
    srocc: float
    gains: tuple[float, float]
    images: int

    @property
    def gain(self) -> float:
        return self.gains[1] - self.gains[0]


def shrink(path: Path, smaller: Smaller) -> None:
    """Rewrite an ONNX file in fewer bits, with its metadata."""
    import onnx
    from onnxruntime.quantization import QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.transformers.float16 import convert_float_to_float16

    plain = onnx.load(path)
    with quiet(), failing(f"this network has no {smaller.precision} form"):
        if smaller.precision == "fp16":
            made = convert_float_to_float16(onnx.load(path), keep_io_types=True)
        else:
            prepared, quantized = path.with_name("prepared.onnx"), path.with_name("quantized.onnx")
            quant_pre_process(path, prepared, skip_symbolic_shape=True)
            options = {"per_channel": True, "nodes_to_exclude": _delicate(onnx.load(prepared))}
            batches = smaller.each("looking for ranges", smaller.calibration)
            images = ({INPUT: batch.numpy()} for batch in batches)
            reader = SimpleNamespace(get_next=partial(next, images, None))
            quantize_static(prepared, quantized, reader, quant_format=QuantFormat.QDQ, **options)
            made = onnx.load(quantized)
    del made.metadata_props[:]
    made.metadata_props.extend(plain.metadata_props)
    onnx.save(made, path)


def _delicate(stored: Any) -> list[str]:
    """Return the layers that stay in float: the first eighth, in which an error grows most, and the one that scores.

    (ours); on NIMA, of 28 layers, that keeps a rank correlation of .998 with the scores in float, and .957 without.
    """
    layers = [node.name for node in stored.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return layers[: len(layers) // 8] + layers[-1:]


def loss_of(model: QualityModel, score: Score, smaller: Smaller) -> Loss:
    """Return what a file's scores have lost against an eager model on the CPU; a LossError where that is too much."""
    attacked = smaller.images[:ATTACKED]

    def scored(score: Score, images: Iterable[Tensor]) -> Tensor:
        return torch.cat([score(each).detach() for each in images]).double()

    with frozen(model):
        eager, ours = (scored(way, smaller.each("comparing scores", smaller.images)) for way in (model, score))
        width = model.scale.width if model.scale is not None else float(eager.max() - eager.min())
        ways: dict[str, Score] = {"model": model, "file": straight_through(score, model)}
        moved = {
            name: scored(way, (ATTACK(way, each) for each in smaller.each(f"attacking the {name}", attacked)))
            for name, way in ways.items()
        }
    gains = [float((moved[n] - base[: len(attacked)]).mean() / width) for n, base in (("model", eager), ("file", ours))]
    sign = 1 if model.higher_is_better else -1
    mos = smaller.mos.double() if smaller.mos is not None else sign * eager
    lost = float(srocc(sign * eager, mos) - srocc(sign * ours, mos))
    error = float((ours - eager).abs().mean() / width)
    found = Loss(smaller.precision, error, lost, (gains[0], gains[1]), len(smaller.images))
    most = smaller.max_loss
    parts = {
        "of the score range in the mean": found.error,
        "of the rank correlation": found.srocc,
        "of the score range more to an attack": found.gain,
    }
    told = [f"{value:.3f} {what}" for what, value in parts.items() if not value <= most]  # NaN fails too
    if told:
        raise LossError(
            f"in {found.precision} this model loses {' and '.join(told)}, on {found.images} images; at most {most:g} "
            "is allowed, see --max-loss"
        )
    return found
