"""Export of a quality model to files that run without this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iqa_armor.registry import Entry, Registry

if TYPE_CHECKING:
    from iqa_armor.export.capture import Format

FORMATS: Registry[Format] = Registry(
    "export format",
    {
        "onnx": Entry("iqa_armor.export.onnx:ONNX", "ONNX; needs the extra 'onnx'"),
        "xml": Entry("iqa_armor.export.onnx:OPENVINO", "OpenVINO, with OUT.bin beside; needs the extra 'openvino'"),
        "pt2": Entry("iqa_armor.export.capture:PT2", "torch.export"),
    },
    group="iqa_armor.formats",
)
