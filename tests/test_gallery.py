"""A gallery of torchvision's networks: each is hardened and reloads, or fails with the documented error."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import memory_dataset
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer, get_model

from iqa_armor.artifact.storage import load_artifact
from iqa_armor.errors import ArmorError, ModelLoadError, SurgeryError
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.models.build import EXTRA_ARGUMENTS
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.pipeline.harden import harden
from iqa_armor.recipe import Recipe

slow = pytest.mark.slow
NO_PRUNING = {"prune": 0}

# Name, side of the images, settings beside the defaults, channels at the block.
HARDENED = [
    ("squeezenet1_1", 64, {}, 228),
    ("mobilenet_v3_small", 64, {}, 40),
    ("mnasnet0_5", 64, {"backend": "aol"}, 40),
    ("shufflenet_v2_x0_5", 64, NO_PRUNING, 96),
    ("shufflenet_v2_x0_5", 64, {}, 96),
    pytest.param("resnet18", 64, {"backend": "aoc"}, 224, marks=slow),
    pytest.param("efficientnet_b0", 64, {}, 104, marks=slow),
    pytest.param("convnext_tiny", 64, {}, 352, marks=slow),
    pytest.param("convnext_tiny", 64, NO_PRUNING, 384, marks=slow),
    pytest.param("regnet_y_400mf", 64, {}, 186, marks=slow),
    pytest.param("densenet121", 64, {}, 448, marks=slow),
    pytest.param("googlenet", 64, {}, None, marks=slow),
    pytest.param("inception_v3", 96, {}, 272, marks=slow),
    pytest.param("resnext50_32x4d", 64, {}, 920, marks=slow),
    pytest.param("vgg11_bn", 64, {}, 456, marks=slow),
    pytest.param("vit_b_16", 224, {"position": "encoder.layers.encoder_layer_10", **NO_PRUNING}, 768, marks=slow),
    ("vit", 224, NO_PRUNING, 32),
]
# The graphs of vit_b_16 and swin_t with fewer channels.
NARROW = {
    "vit": partial(
        VisionTransformer, image_size=224, patch_size=16, num_layers=12, num_heads=4, hidden_dim=32, mlp_dim=64
    ),
    "swin": partial(
        SwinTransformer,
        patch_size=[4, 4],
        embed_dim=24,
        depths=[2, 2, 6, 2],
        num_heads=[1, 2, 4, 8],
        window_size=[7, 7],
    ),
    "shares": lambda num_classes: nn.Sequential(
        *(nn.Sequential(nn.Conv2d(given, 8, 3, 2), nn.Softmax(1)) for given in (3, 8)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)),
    ),
}
REFUSED = [
    (
        "shares",
        64,
        {},
        SurgeryError,
        r"no channel of this network can go: \w+ goes over channels \(.+\). --prune 0 skips pruning",
    ),
    (
        "swin",
        64,
        {"position": "features.6", **NO_PRUNING},
        ModelLoadError,
        r"could not be stored once it is hardened: .*torchvision.models.swin_transformer",
    ),
]


def network_of(name: str) -> nn.Module:
    """Return a network with random weights whose scores differ between images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make = NARROW.get(name) or partial(get_model, name, weights=None, **EXTRA_ARGUMENTS.get(name, {}))
        network = make(num_classes=1)
        *_, last = (module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d))
        nn.init.uniform_(last.weight)  # positive: SqueezeNet rectifies its score
    return network.eval()


@pytest.mark.parametrize(("name", "side", "settings", "channels"), HARDENED)
def test_hardened_network_reloads_with_the_same_scores(
    name: str, side: int, settings: dict, channels: int | None, tmp_path: Path
) -> None:
    model = QualityModel(network_of(name), Preprocessing(size=(side, side)), name=name)
    result = harden(model, memory_dataset(training=8), Recipe(epochs=0, calibration=4, **settings))
    result.save(tmp_path / "hardened.safetensors")
    opened, images = load_artifact(tmp_path / "hardened.safetensors"), torch.rand(2, 3, side, side)
    with torch.inference_mode():
        scores = result.model(images)
        assert float((opened(images) - scores).abs().max()) <= 1e-5 * float(scores.abs().max())
    assert sum(isinstance(module, RobustBlock) for module in opened.modules()) == 1
    assert channels in (None, result.blocks[0].channels)
    assert result.pruned is None or result.pruned.share == pytest.approx(0.10, abs=0.02)


@pytest.mark.parametrize(("name", "side", "settings", "kind", "reason"), REFUSED)
def test_network_that_cannot_be_hardened_says_why(
    name: str, side: int, settings: dict, kind: type[ArmorError], reason: str
) -> None:
    model = QualityModel(network_of(name), Preprocessing(size=(side, side)), name=name)
    with pytest.raises(kind) as caught:
        harden(model, memory_dataset(training=8), Recipe(epochs=0, calibration=4, **settings))
    assert re.search(reason, str(caught.value)), caught.value


def test_widths_of_linear_layers_go_where_those_of_convolutions_must_stay() -> None:
    model = QualityModel(network_of("vit"), Preprocessing(size=(224, 224)), name="vit")
    pruned = harden(model, memory_dataset(training=8), Recipe(epochs=0, calibration=4)).pruned
    assert pruned is not None
    assert pruned.share == 0
    assert {len(channels) / pruned.widths[name] for name, channels in pruned.kept.items()} == {58 / 64}
