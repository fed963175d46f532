"""Torchvision's convolutional classifiers with one score instead of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

# What torchvision calls the parts of a ResNet that come before its classifier.
RESNET_TRUNK = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
# Training-only outputs and slow initialisation that these two builders have on by default.
EXTRA_ARGUMENTS: dict[str, dict[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


@dataclass(frozen=True)
class Classifier:
    """Builder of the torchvision network of this name with one output and random weights; nothing is downloaded."""

    name: str

    def __call__(self) -> nn.Module:
        """Return a new network on normalised input."""
        import torch
        from torchvision.models import get_model

        arguments = EXTRA_ARGUMENTS.get(self.name, {})
        # A RegNet computes its widths with tensors, so it cannot be built on the meta device.
        device = torch.device("cpu") if self.name.startswith("regnet") else torch.get_default_device()
        with device:
            network: nn.Module = get_model(self.name, weights=None, num_classes=1, **arguments)
        return network


def torchvision_network(name: str) -> nn.Module:
    """Return a new network of one of the names in `models.TORCHVISION`."""
    return Classifier(name)()


def from_classifier(state: Mapping[str, Tensor], places: Mapping[str, str]) -> dict[str, Tensor]:
    """Return a state dict in which the parts of an ImageNet classifier have the names they bear inside another network.

    `places` gives the new name of a part, such as {"conv1": "backbone.conv1"}; other names stay.
    """
    parts = {name: name.partition(".") for name in state}
    return {
        f"{places[first]}.{rest}" if first in places and rest else name: state[name]
        for name, (first, _, rest) in parts.items()
    }
