"""The format of OpenVINO: a graph in XML and its weights beside it, run here on the CPU; the way there is by ONNX."""

from pathlib import Path

import torch
from torch import Tensor

from iqa_armor.errors import ArmorError, first_line
from iqa_armor.export.capture import Captured, quiet
from iqa_armor.export.formats import METADATA_KEY, Format, Score
from iqa_armor.export.onnx import write as write_onnx

PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would compute in bfloat16 by themselves


def write(captured: Captured, path: Path, metadata: str) -> None:
    """Write OUT.xml and OUT.bin, in float32, if every operation has a form in OpenVINO."""
    import openvino

    between = path.with_suffix(".onnx")
    write_onnx(captured, between, metadata)
    with quiet():
        try:
            network = openvino.convert_model(between)
        except RuntimeError as error:  # all of OpenVINO's are
            raise ArmorError(f"this network has no OpenVINO form: {first_line(error)}") from error
        network.set_rt_info(metadata, METADATA_KEY)
        openvino.save_model(network, path, compress_to_fp16=False)


def read(path: Path) -> tuple[str, Score]:
    import openvino

    try:
        network = openvino.Core().read_model(path)
        compiled = openvino.compile_model(network, "CPU", PRECISE)
    except RuntimeError as error:
        raise ArmorError(f"OpenVINO refuses the exported file: {first_line(error)}") from error

    def score(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(compiled(images.contiguous().numpy())[0].copy())
        except RuntimeError as error:
            raise ArmorError(f"OpenVINO fails on images {tuple(images.shape)}: {first_line(error)}") from error

    return str(network.get_rt_info(METADATA_KEY).astype(str)) if network.has_rt_info(METADATA_KEY) else "", score


NEEDS = ("openvino", "onnx", "onnxscript")
FORMAT = Format("OpenVINO", NEEDS, write, read, "'iqa-armor[openvino]'", beside=".bin")
