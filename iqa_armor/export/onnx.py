"""The ONNX format: one file with its weights inside, also in fewer bits, run here by onnxruntime; and OpenVINO's."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from iqa_armor.attacks.apgd import APGD
from iqa_armor.attacks.base import frozen
from iqa_armor.data.base import Dataset
from iqa_armor.data.prepared import to_float
from iqa_armor.errors import ArmorError, DataError, failing
from iqa_armor.export.capture import INPUT, METADATA_KEY, OUTPUT, Captured, Format, Score, quiet
from iqa_armor.gradients import straight_through
from iqa_armor.limits import Limited, NotNegative
from iqa_armor.machine import onnx_session
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, automatic

AXES = ("batch", "channels", "height", "width")
# A protobuf message ends at 2 GiB; the graph itself needs a little of it.
LIMIT = 2**31 - 2**22
PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would compute in bfloat16 by themselves
Precision = Literal["fp16", "int8"]
ATTACK = APGD(epsilon=4 / 255, steps=10)
ATTACKED = 16  # images, the first ones


def write(captured: Captured, path: Path, metadata: str) -> None:
    """Write one ONNX file with its weights inside, if it can hold them and every operation has an ONNX form."""
    weight_bytes = sum(value.nbytes for value in captured.program.state_dict.values())
    if weight_bytes > LIMIT:
        takes = f"an ONNX file holds at most 2 GiB and this model takes {weight_bytes / 2**30:.2f} GiB"
        raise ArmorError(f"{takes}; export to .pt2, or a smaller --input-size")
    names: Any = {"input_names": [INPUT], "output_names": [OUTPUT]}
    with quiet():
        with failing("this network has no ONNX form"):
            program = torch.onnx.export(captured.program, dynamo=True, verbose=False, **names)
        if program is None:
            raise ArmorError("the ONNX exporter of this PyTorch gave nothing back; update torch and onnxscript")
        _name_axes(program.model.graph)
        program.model.metadata_props[METADATA_KEY] = metadata
        program.save(str(path), external_data=False)


def _name_axes(graph: Any) -> None:
    """Give the free axes of the images their names, wherever a size is the same; torch 2.10 cannot."""
    sides = zip(graph.inputs[0].shape or (), AXES, strict=True)
    names = {str(side): name for side, name in sides if not isinstance(side, int)}
    for value in (*graph.inputs, *(made for node in graph for made in node.outputs)):
        for axis, side in enumerate(value.shape or ()):
            if str(side) in names:
                value.shape[axis] = names[str(side)]


def read(path: Path) -> tuple[str, Score]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    failures = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    with failing("onnxruntime refuses the exported file", failures):
        session = onnx_session(str(path))

    def score(images: Tensor) -> Tensor:
        with failing(f"onnxruntime fails on images {tuple(images.shape)}", failures):
            (scores,) = session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
            return torch.from_numpy(scores)

    return session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, ""), score


def write_openvino(captured: Captured, path: Path, metadata: str) -> None:
    """Write OUT.xml and OUT.bin, in float32, if every operation has a form in OpenVINO."""
    import openvino

    between = path.with_suffix(".onnx")
    write(captured, between, metadata)
    with quiet():
        with failing("this network has no OpenVINO form", (RuntimeError,)):  # all of OpenVINO's are
            network = openvino.convert_model(between)
        network.set_rt_info(metadata, METADATA_KEY)
        openvino.save_model(network, path, compress_to_fp16=False)


def read_openvino(path: Path) -> tuple[str, Score]:
    import openvino

    with failing("OpenVINO refuses the exported file", (RuntimeError,)):
        network = openvino.Core().read_model(path)
        compiled = openvino.compile_model(network, "CPU", PRECISE)

    def score(images: Tensor) -> Tensor:
        with failing(f"OpenVINO fails on images {tuple(images.shape)}", (RuntimeError,)):
            return torch.from_numpy(compiled(images.contiguous().numpy())[0].copy())

    return str(network.get_rt_info(METADATA_KEY).astype(str)) if network.has_rt_info(METADATA_KEY) else "", score


class LossError(ArmorError):
    """A file in fewer bits that loses more than is allowed."""


@dataclass(frozen=True)
class Smaller(Limited):
    """In which precision a file is stored, and what that may cost."""

    precision: Precision
    calibration: Sequence[Tensor]  # prepared training images (3, H, W), from which int8 takes the ranges of activations
    images: Sequence[Tensor]  # others, three or more, on which file and model are compared; the first are attacked
    mos: Tensor | None = None  # their opinion scores (N,), or None: ranks are compared with the model's
    max_loss: NotNegative = 0.02  # most that is lost of each part of a `Loss`
    progress: Progress = field(default=automatic, compare=False, repr=False)

    @classmethod
    def on(cls, model: QualityModel, dataset: Dataset, precision: Precision, *, limit: int) -> Self:
        """Return what it takes on a dataset: `limit` training images for ranges, and reported ones to compare."""
        images, prepare = dataset.reported()[1].limit(limit), to_float if dataset.keeps_size else model.prepare
        if len(images) < 3:
            raise DataError(f"{dataset.spec} has {len(images)} images to compare on; it takes at least 3")
        ranges = dataset.splits.get("training", images).limit(limit) if precision == "int8" else ()
        calibration, compared = ([prepare(part[i]) for i in range(len(part))] for part in (ranges, images))
        return cls(precision, calibration, compared, images.mos)

    def each(self, task: str, images: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield images as batches of one, and tell how far that is."""
        for place, image in enumerate(images):
            yield image.unsqueeze(0)
            self.progress(task, place + 1, len(images))


@dataclass(frozen=True)
class Loss:
    """What a file in fewer bits has lost: shares of the score range and of a rank correlation, negative if won."""

    precision: Precision
    error: float  # mean of a score
    srocc: float
    # Mean rises of the score under attack (APGD, 10 steps, ε = 4/255) of model and file, with the model's gradient.
    gains: tuple[float, float]
    images: int


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
            nodes = onnx.load(prepared).graph.node
            layers = [node.name for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
            # The first eighth, in which an error grows most, and the layer that scores stay in float (ours). On NIMA,
            # of 28 layers, that keeps a rank correlation of .998 with the scores in float, and .957 without.
            options = {"per_channel": True, "nodes_to_exclude": layers[: len(layers) // 8] + layers[-1:]}
            images = ({INPUT: batch.numpy()} for batch in smaller.each("looking for ranges", smaller.calibration))
            reader = SimpleNamespace(get_next=partial(next, images, None))
            quantize_static(prepared, quantized, reader, quant_format=QuantFormat.QDQ, **options)
            made = onnx.load(quantized)
    del made.metadata_props[:]
    made.metadata_props.extend(plain.metadata_props)
    onnx.save(made, path)


def loss_of(model: QualityModel, score: Score, smaller: Smaller) -> Loss:
    """Return what a file's scores have lost against an eager model on the CPU; a LossError where that is too much."""
    attacked = smaller.images[:ATTACKED]

    def scored(score: Score, images: Iterable[Tensor]) -> Tensor:
        return torch.cat([score(each).detach() for each in images]).double()

    with frozen(model):
        eager, ours = (scored(way, smaller.each("comparing scores", smaller.images)) for way in (model, score))
        width = model.scale.width if model.scale is not None else float(eager.max() - eager.min())
        ways: dict[str, tuple[Score, Tensor]] = {
            "model": (model, eager),
            "file": (straight_through(score, model), ours),
        }
        gains = []
        for name, (way, before) in ways.items():
            moved = (ATTACK(way, each) for each in smaller.each(f"attacking the {name}", attacked))
            gains.append(float((scored(way, moved) - before[: len(attacked)]).mean() / width))
    sign = 1 if model.higher_is_better else -1
    mos = smaller.mos.double() if smaller.mos is not None else sign * eager
    lost = float(srocc(sign * eager, mos) - srocc(sign * ours, mos))
    error = float((ours - eager).abs().mean() / width)
    parts = {
        "of the score range in the mean": error,
        "of the rank correlation": lost,
        "of the score range more to an attack": gains[1] - gains[0],
    }
    most, count = smaller.max_loss, len(smaller.images)
    if told := [f"{value:.3f} {what}" for what, value in parts.items() if not value <= most]:  # NaN fails too
        loses = f"in {smaller.precision} this model loses {' and '.join(told)}, on {count} images"
        raise LossError(f"{loses}; at most {most:g} is allowed, see --max-loss")
    return Loss(smaller.precision, error, lost, (gains[0], gains[1]), count)


_NEEDS = ("openvino", "onnx", "onnxscript")
ONNX = Format("ONNX", ("onnx", "onnxruntime", "onnxscript"), write, read, "'iqa-armor[onnx]'", shrink=shrink)
OPENVINO = Format("OpenVINO", _NEEDS, write_openvino, read_openvino, "'iqa-armor[openvino]'", beside=".bin")
