"""Torchvision's convolutional classifiers with one score instead of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

# Names of torchvision's model builders; each is built with a single output, its quality score.
TORCHVISION = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    *(f"mnasnet{width}" for width in ("0_5", "0_75", "1_0", "1_3")),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"efficientnet_b{index}" for index in range(8)),
    *(f"efficientnet_v2_{size}" for size in ("s", "m", "l")),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *(f"regnet_y_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf")),
    *(f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")),
    "squeezenet1_0",
    "squeezenet1_1",
    "alexnet",
    "googlenet",
    "inception_v3",
)
# What torchvision calls the parts of a ResNet that come before its classifier.
RESNET_TRUNK = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
# Training-only outputs and slow initialisation that these two builders have on by default.
EXTRA_ARGUMENTS: dict[str, dict[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision_network(name: str) -> nn.Module:
    """Return a torchvision network with one output and random weights; nothing is downloaded.

    Args:
        name: One of `TORCHVISION`.
    """
    import torch
    from torchvision.models import get_model

    arguments = EXTRA_ARGUMENTS.get(name, {})
    if name.startswith("regnet"):  # computes its widths with tensors, so it cannot be built on the meta device
        with torch.device("cpu"):
            network: nn.Module = get_model(name, weights=None, num_classes=1)
        return network
    network = get_model(name, weights=None, num_classes=1, **arguments)
    return network


BACKBONES: dict[str, Callable[[], nn.Module]] = {name: partial(torchvision_network, name) for name in TORCHVISION}


def from_classifier(state: Mapping[str, Tensor], places: Mapping[str, str]) -> dict[str, Tensor]:
    """Return a state dict in which the parts of an ImageNet classifier have the names they bear inside another network.

    Args:
        state: Tensors by name, under the classifier's names or already under the other network's.
        places: New name by the classifier's name of a part, such as {"conv1": "backbone.conv1"}.
    """
    parts = {name: name.partition(".") for name in state}
    return {
        f"{places[first]}.{rest}" if first in places and rest else name: state[name]
        for name, (first, _, rest) in parts.items()
    }
