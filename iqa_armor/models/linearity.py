"""Linearity: a ResNe(X)t whose last two stages are pooled, reduced and regressed together."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from iqa_armor.models.base import KONIQ_SIZE, Preprocessing
from iqa_armor.models.build import RESNET_TRUNK
from iqa_armor.models.weights import RESCALING

Backbone = Literal["resnext101_32x8d", "resnet18", "resnet34", "resnet50"]
_REDUCED = 64


class Linearity(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 33 pixels on, giving (N, 1).

    Scores rise with quality, in the unit of the opinions the file was trained on where it holds k and b.

    The maps of stages three and four are averaged over the image, reduced to 64 numbers each and regressed together.
    `regr6` and `regr7` regress one stage alone; the authors use them in training only, and so they touch no score.

    Source: Li, Jiang, Jiang, "Norm-in-Norm Loss with Faster Convergence and Better Performance for Image Quality
    Assessment", ACM MM 2020, arXiv:2008.03889, Section 3; average pooling, as in the authors' released models.
    """

    # Height × width, as the authors resize KonIQ-10k.
    preprocessing = Preprocessing(size=KONIQ_SIZE, interpolation="bilinear")

    def __init__(self, backbone: Backbone = "resnext101_32x8d") -> None:
        super().__init__()
        from torchvision.models import get_model

        places = zip(RESNET_TRUNK, (0, 1, 4, 5, 6, 7), strict=True)
        self.classifier_places = {part: f"features.{index}" for part, index in places}
        third, fourth = (256, 512) if backbone in ("resnet18", "resnet34") else (1024, 2048)
        self.features = nn.Sequential(*list(get_model(backbone, weights=None).children())[:-2])
        self.dr6, self.dr7 = _reduction(third), _reduction(fourth)
        self.regr6, self.regr7 = nn.Linear(_REDUCED, 1), nn.Linear(_REDUCED, 1)
        self.regression = nn.Linear(2 * _REDUCED, 1)

    def forward(self, images: Tensor) -> Tensor:
        third = images
        for layer in self.features[:-1]:
            third = layer(third)
        fourth = self.features[-1](third)
        reduced = torch.cat((self.dr6(third.mean((2, 3))), self.dr7(fourth.mean((2, 3)))), dim=1)
        return self.regression(reduced)  # type: ignore[no-any-return]

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return an authors' state dict with the linear rescaling k, b stored beside it folded into the last layer.

        score = k (w·x + c) + b, so w becomes k w and c becomes k c + b. Without k and b nothing changes.
        """
        adapted = {name: value for name, value in state.items() if name not in RESCALING}
        if all(name in state for name in (*RESCALING, "regression.weight", "regression.bias")):
            k, b = (state[name].double() for name in RESCALING)
            weight, bias = state["regression.weight"], state["regression.bias"]
            adapted["regression.weight"] = (k * weight.double()).to(weight.dtype)
            adapted["regression.bias"] = (k * bias.double() + b).to(bias.dtype)
        return adapted


def _reduction(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((channels, 1024, 256, _REDUCED)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)]
    return nn.Sequential(*layers, nn.ReLU())


def linearity_on(backbone: Backbone) -> Callable[[], Linearity]:
    return partial(Linearity, backbone)


linearity_network = Linearity
