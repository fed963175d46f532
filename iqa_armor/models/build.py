"""Build the network that `--arch` names, such as torchvision's classifiers with one score."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from iqa_armor.errors import ModelLoadError, calling
from iqa_armor.models import ARCHITECTURES
from iqa_armor.models.base import Preprocessing, QualityModel, unwrapped
from iqa_armor.models.families import FAMILIES

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
    return partial(torchvision_network, name)


def build(arch: str) -> nn.Module:
    """Return a new network or QualityModel of the named architecture, with its initial weights.

    `arch` is a key of `ARCHITECTURES`, `timm:NAME`, `pyiqa:NAME`, `package.module:factory` or `path/file.py:factory`.
    A factory takes no arguments and returns a QualityModel, or an nn.Module on normalised input; one that states its
    `preprocessing` comes back in a QualityModel.
    """
    family, _, member = arch.partition(":")
    factory, settings = (partial(FAMILIES[family], member), "") if family in FAMILIES else ARCHITECTURES.find(arch)
    if settings:
        raise ModelLoadError(f"an architecture takes no settings, got {settings!r} in {arch!r}")
    with calling(f"the factory {arch!r}", ModelLoadError):
        made = factory()
    if not isinstance(made, nn.Module):
        raise ModelLoadError(
            f"the factory {arch!r} returned {type(made).__name__}; it must return an nn.Module or QualityModel"
        )
    made = unwrapped(made)
    stated = getattr(made, "preprocessing", None)
    if isinstance(stated, Preprocessing) and not isinstance(made, QualityModel):
        return QualityModel(made, stated, arch=arch)
    if isinstance(made, QualityModel):
        made.arch = arch
    return made
