"""The ONNX format: one file with its weights inside, run here by onnxruntime; and OpenVINO's, made of such a file."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iqa_armor.errors import ArmorError, failing
from iqa_armor.export.capture import INPUT, METADATA_KEY, OUTPUT, Captured, Format, Score, quiet
from iqa_armor.export.smaller import shrink
from iqa_armor.machine import onnx_session

AXES = ("batch", "channels", "height", "width")
# A protobuf message ends at 2 GiB; the graph itself needs a little of it.
LIMIT = 2**31 - 2**22
PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would compute in bfloat16 by themselves


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


_NEEDS = ("openvino", "onnx", "onnxscript")
ONNX = Format("ONNX", ("onnx", "onnxruntime", "onnxscript"), write, read, "'iqa-armor[onnx]'", shrink=shrink)
OPENVINO = Format("OpenVINO", _NEEDS, write_openvino, read_openvino, "'iqa-armor[openvino]'", beside=".bin")
