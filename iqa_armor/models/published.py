"""Published quality models: DBCNN, KonCept512, MetaIQA, the baseline of SPAQ, Linearity."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.models.base import KONIQ_SIZE, Preprocessing
from iqa_armor.models.build import RESNET_TRUNK
from iqa_armor.models.inception_resnet import WIDTH, inception_resnet_v2
from iqa_armor.models.weights import RESCALING

# Output channels and stride of S-CNN's convolutions.
SCNN = ((48, 1), (48, 2), (64, 1), (64, 2), (64, 1), (64, 2), (128, 1), (128, 1), (128, 2))
_WINDOW = 8  # of KonCept512
_MANY = 2**12  # more windows than any side has
Backbone = Literal["resnext101_32x8d", "resnet18", "resnet34", "resnet50"]
_REDUCED = 64  # numbers of a stage in Linearity


class DBCNN(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 16 pixels on, giving (N, 1) that rises with quality.

    VGG-16 without its last pooling sees the scene, S-CNN the distortion; the score is linear in the square root of
    the average product of every channel of the one with every channel of the other.

    Source: Zhang, Ma, Yan, Deng, Wang, "Blind Image Quality Assessment Using a Deep Bilinear Convolutional Neural
    Network", IEEE TCSVT 2020, arXiv:1907.02665, Section III. Where sides are no multiples of 16 the maps of S-CNN are
    the larger ones and are resampled to VGG's size, corners aligned; equal sizes pass unchanged.
    """

    preprocessing = Preprocessing(size=None)  # images keep their size, as in the paper

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg16

        self.features1 = nn.Sequential(*list(vgg16(weights=None).features)[:-1])
        layers: list[nn.Module] = []
        for (channels, _), (outputs, stride) in pairwise(((3, 1), *SCNN)):
            layers += [nn.Conv2d(channels, outputs, 3, stride=stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features2 = nn.Sequential(*layers)
        self.fc = nn.Linear(512 * SCNN[-1][0], 1)

    def forward(self, images: Tensor) -> Tensor:
        scene, distortion = self.features1(images), self.features2(images)
        distortion = functional.interpolate(distortion, size=scene.shape[2:], mode="bilinear", align_corners=True)
        scene, distortion = scene.flatten(2), distortion.flatten(2)
        products = torch.bmm(scene, distortion.transpose(1, 2)) / scene.shape[2]
        pooled = functional.normalize(torch.sqrt(products.flatten(1) + 1e-8))
        return self.fc(pooled)  # type: ignore[no-any-return]


class KonCept512(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 75 pixels on, giving (N, 1), about 0 to 100.

    The original averages the top left 8 × 8 of the last map, which is 10 × 14 for its 384 × 512 pixels: so does this
    one wherever both sides of that map are 8 to 15, that is for 299 to 554 pixels. (ours) Elsewhere, where the original
    fails, a side shorter than 8 is averaged whole, and of a longer one as many whole windows as fit.

    Source: Hosu, Lin, Sziranyi, Saupe, "KonIQ-10k: An Ecologically Valid Database for Deep Learning of Blind Image
    Quality Assessment", IEEE TIP 2020, arXiv:1910.06180, Section V.
    """

    # Height × width; scaled to [-1, 1], as Inception-ResNet-v2 takes images.
    preprocessing = Preprocessing(size=(384, 512), interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)

    def __init__(self) -> None:
        super().__init__()
        self.base = inception_resnet_v2()
        layers: list[nn.Module] = []
        for (inputs, outputs), share in zip(pairwise((WIDTH, 2048, 1024, 256)), (0.25, 0.25, 0.5), strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.BatchNorm1d(outputs), nn.Dropout(share)]
        self.fc = nn.Sequential(*layers, nn.Linear(256, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.base(images)
        window = maps[:, :, : _covered(maps.shape[2]), : _covered(maps.shape[3])]
        return self.fc(window.mean((2, 3)))  # type: ignore[no-any-return]


def _covered(side: int) -> int:
    """Return how many of `side` pixels whole windows cover; one window where none fits."""
    whole = side // _WINDOW
    # ceil(whole / _MANY) is 0 for whole = 0 and else 1: a conditional could not be traced.
    return _WINDOW * (whole + 1 - (whole + _MANY - 1) // _MANY)


class MetaIQA(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 33 pixels on, giving (N, 1) in (0, 1), the best near 1.

    Source: Zhu, Li, Wu, Dong, Shi, "MetaIQA: Deep Meta-learning for No-Reference Image Quality Assessment",
    CVPR 2020, arXiv:2004.05508, Section 3.2.
    """

    preprocessing = Preprocessing(size=(224, 224), interpolation="bilinear")  # the authors crop; resizing is (ours)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.classifier_places = {part: f"resnet_layer.{part}" for part in (*RESNET_TRUNK, "fc")}
        self.resnet_layer: nn.Module = resnet18(weights=None)
        self.net = nn.Sequential()
        for place, (inputs, outputs) in enumerate(pairwise((1000, 1024, 512)), start=1):
            layers = {"fc": nn.Linear(inputs, outputs), "bn": nn.BatchNorm1d(outputs), "relu": nn.PReLU()}
            for name, layer in {**layers, "drop": nn.Dropout(0.5)}.items():
                self.net.add_module(f"{name}{place}", layer)
        self.net.add_module("fc3", nn.Linear(512, 1))
        self.net.add_module("sigmoid", nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.resnet_layer(images))  # type: ignore[no-any-return]


class SPAQBaseline(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 33 pixels on, giving (N, 1), about 0 to 100.

    The paper averages patches of 224 × 224, 512 being the shorter side. (ours) Images are scored whole, at 512 × 682.

    Source: Fang, Zhu, Zeng, Ma, Wang, "Perceptual Quality Assessment of Smartphone Photography", CVPR 2020,
    Section 4.1 (baseline model BL).
    """

    # 512 on the shorter side of a 4:3 photograph; pixels stay in [0, 1].
    preprocessing = Preprocessing(size=(512, 682), interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.classifier_places = {part: f"backbone.{part}" for part in RESNET_TRUNK}
        self.backbone: nn.Module = resnet50(weights=None, num_classes=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)  # type: ignore[no-any-return]


class Linearity(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 33 pixels on, giving (N, 1) that rises with quality.

    Scores are in the unit of the opinions where the file holds k and b. The maps of stages three and four are averaged
    over the image, reduced to 64 numbers each and regressed together; `regr6` and `regr7`, which regress one stage
    alone, are used in the authors' training only.

    Source: Li, Jiang, Jiang, "Norm-in-Norm Loss with Faster Convergence and Better Performance for Image Quality
    Assessment", ACM MM 2020, arXiv:2008.03889, Section 3; average pooling, as in the authors' released models.
    """

    preprocessing = Preprocessing(size=KONIQ_SIZE, interpolation="bilinear")  # as the authors resize KonIQ-10k

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
        """Fold the rescaling beside an authors' state dict into its last layer: score = k (w·x + c) + b."""
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


# As earlier versions called them.
dbcnn_network, koncept512_network, metaiqa_network = DBCNN, KonCept512, MetaIQA
spaq_network, linearity_network = SPAQBaseline, Linearity
