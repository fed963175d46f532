"""Torchvision's convolutional classifiers with one score instead of classes."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

# What torchvision calls the parts of a ResNet that come before its classifier.
RESNET_TRUNK = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
# These two have training-only outputs by default, and warn unless they are told how to initialise.
EXTRA_ARGUMENTS = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}


def torchvision_network(name: str) -> nn.Module:
    """Return one of `models.TORCHVISION` on normalised input, with one output and random weights, not downloaded."""
    from torchvision.models import get_model

    # A RegNet computes its widths with tensors, so it cannot be built on the meta device.
    with torch.device("cpu") if name.startswith("regnet") else torch.get_default_device():
        network: nn.Module = get_model(name, weights=None, num_classes=1, **EXTRA_ARGUMENTS.get(name, {}))
    return network


def classifier(name: str) -> Callable[[], nn.Module]:
    """Return the builder of a `torchvision_network`."""
    return partial(torchvision_network, name)
