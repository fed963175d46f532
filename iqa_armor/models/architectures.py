"""The built-in architectures: published quality models and torchvision's classifiers with one score."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from iqa_armor.models.backbone import BACKBONES
from iqa_armor.models.dbcnn import dbcnn
from iqa_armor.models.koncept512 import koncept512
from iqa_armor.models.linearity import linearity
from iqa_armor.models.metaiqa import metaiqa
from iqa_armor.models.spaq import spaq
from iqa_armor.models.tres import tres

# Published models come as a QualityModel with their preprocessing, backbones as a network on normalised input.
ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "linearity": linearity,
    **{f"linearity-{name}": partial(linearity, name) for name in ("resnet18", "resnet34", "resnet50")},
    "koncept512": koncept512,
    "dbcnn": dbcnn,
    "tres": tres,
    "metaiqa": metaiqa,
    "spaq": spaq,
    **BACKBONES,
}
