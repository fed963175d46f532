"""NIMA on MobileNetV1 1.0 with folded batch norm, as a user of iqa-armor would write it down.

`regressor` has a new linear head of one output for training on opinion scores; `aesthetic` has the original head of
ten classes, whose mean is the score. Pixels in [0, 1] become [-1, 1]: mean 0.5, std 0.5.

    iqa-armor train examples/nima.py:regressor --weights nima_aesthetic_folded.pth \
        --data csv:labels.csv -o base.safetensors
    iqa-armor score nima_aesthetic_folded.pth photo.jpg --arch examples/nima.py:aesthetic

Talebi and Milanfar, "NIMA: Neural Image Assessment", IEEE TIP 2018; Howard et al., "MobileNets", 2017.
"""

import torch
from torch import Tensor, nn

from iqa_armor import Preprocessing, QualityModel

# Output channels and stride of the thirteen depthwise-separable pairs.
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
CENTERED = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def block(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution with ReLU6; a stride of 2 pads right and below only, as TensorFlow does."""
    if stride == 2:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride=2, groups=groups)
        return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), convolution, nn.ReLU6())
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups), nn.ReLU6())


def features() -> nn.Sequential:
    """Return the 27 convolutions, (N, 3, H, W) to (N, 1024, H/32, W/32)."""
    blocks, channels = [block(3, 32, stride=2)], 32
    for outputs, stride in PAIRS:
        blocks.append(block(channels, channels, stride=stride, groups=channels))
        blocks.append(block(channels, outputs, kernel=1))
        channels = outputs
    return nn.Sequential(*blocks)


class Regressor(nn.Module):
    """MobileNetV1 with one linear output."""

    def __init__(self) -> None:
        super().__init__()
        self.features = features()
        self.score = nn.Linear(1024, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, 1) of images (N, 3, H, W) in [-1, 1]."""
        return self.score(self.features(images).mean(dim=(2, 3)))


class Aesthetic(nn.Module):
    """The original: mean of a predicted distribution over the ratings 1 to 10."""

    def __init__(self) -> None:
        super().__init__()
        self.features = features()
        self.classifier = nn.Linear(1024, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N,) of images (N, 3, H, W) in [-1, 1]."""
        shares = torch.softmax(self.classifier(self.features(images).mean(dim=(2, 3))), dim=1)
        return sum(rating * shares[:, rating - 1] for rating in range(1, 11))


def regressor() -> QualityModel:
    """Return an untrained regressor for 224 × 224 images."""
    return QualityModel(Regressor(), Preprocessing(size=(224, 224), **CENTERED), name="nima")


def aesthetic() -> QualityModel:
    """Return the original network, which was evaluated on images resized with nearest neighbours."""
    preprocessing = Preprocessing(size=(224, 224), interpolation="nearest-exact", **CENTERED)
    return QualityModel(Aesthetic(), preprocessing, name="nima-aesthetic")
