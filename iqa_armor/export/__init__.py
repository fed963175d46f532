"""Export of a quality model to ONNX and torch.export files that run without this package."""

from iqa_armor.export.check import Check
from iqa_armor.export.formats import format_of
from iqa_armor.export.write import Exported, described, export_model

__all__ = ["Check", "Exported", "described", "export_model", "format_of"]
