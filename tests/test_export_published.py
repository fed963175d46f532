"""The published architectures export at small sizes, with the same scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from iqa_armor.export.write import export_model
from iqa_armor.models.base import QualityModel
from iqa_armor.models.build import build


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix", "size"),
    [
        ("metaiqa", "onnx", (96, 96)),
        ("metaiqa", "pt2", (96, 96)),
        ("spaq", "onnx", (96, 128)),
        ("dbcnn", "onnx", (96, 128)),
        ("linearity-resnet18", "onnx", (96, 128)),
        ("tres", "pt2", (96, 128)),
        ("koncept512", "pt2", (139, 180)),
    ],
)
def test_published_architecture_exports_for_any_size(
    name: str, suffix: str, size: tuple[int, int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    made = build(name)
    assert isinstance(made, QualityModel)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):  # default weights shrink DBCNN's products to rounding noise
            nn.init.kaiming_normal_(module.weight)
    made.set_preprocessing(replace(made.preprocessing, size=size))
    model = made.eval()
    exported = export_model(model, tmp_path / f"model.{suffix}")  # it refuses scores that differ
    assert exported.size == (None, None), exported.fixed_because
    assert "Traceback" not in capfd.readouterr().err
