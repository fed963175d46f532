"""A ResNet-50 with a head on its last two stages, as Linearity (Li et al. 2020) has it, for benchmarks."""

from __future__ import annotations

import itertools

import torch
import torchvision
from torch import Tensor, nn


def branch(channels: int) -> nn.Sequential:
    """Return the reduction of pooled features (N, channels) to 64."""
    sizes = (channels, 1024, 256, 64)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class LinearityResNet50(nn.Module):
    """Score normalised images (N, 3, H, W) by the pooled features of layer3 and layer4."""

    def __init__(self) -> None:
        super().__init__()
        self.base = torchvision.models.resnet50(weights=None)
        del self.base.fc
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce3, self.reduce4 = branch(1024), branch(2048)
        self.regression = nn.Linear(128, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N,)."""
        base = self.base
        stem = base.maxpool(base.relu(base.bn1(base.conv1(images))))
        inner = base.layer3(base.layer2(base.layer1(stem)))
        pooled = [self.pool(inner).flatten(1), self.pool(base.layer4(inner)).flatten(1)]
        features = torch.cat([self.reduce3(pooled[0]), self.reduce4(pooled[1])], dim=1)
        return self.regression(features).flatten()


def build() -> nn.Module:
    """Return the network with random weights, the same at every call."""
    torch.manual_seed(0)
    return LinearityResNet50()
