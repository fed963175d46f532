"""Inception-ResNet-v2 up to its last map, which torchvision does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 1536  # channels of the last map
_BLOCKS_35, _BLOCKS_17, _BLOCKS_8 = 10, 20, 9
Pair = tuple[int, int]


class Convolution(nn.Module):
    """Convolution without bias, batch norm, ReLU: (N, inputs, H, W) to (N, outputs, H', W').

    With `same`, zero padding keeps the map size at stride 1.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int | Pair = 1, *, stride: int = 1, same: bool = False
    ) -> None:
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (size[0] // 2, size[1] // 2) if same else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Return the activated maps."""
        activated: Tensor = self.relu(self.bn(self.conv(maps)))
        return activated


class Branches(nn.Module):
    """Branches side by side, named branch0, branch1, … in the state dict; the channels of their maps are joined."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.count = len(branches)
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the joined maps."""
        return torch.cat([self.get_submodule(f"branch{index}")(maps) for index in range(self.count)], dim=1)


class Residual(Branches):
    """Joined branches, brought back to the input's channels, scaled and added to the input; a ReLU may follow.

    `channels` are those that are joined and those of the input.
    """

    def __init__(self, *branches: nn.Module, channels: Pair, scale: float, activate: bool = True) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(*channels, 1)
        self.scale = scale
        self.relu = nn.ReLU() if activate else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the input's size."""
        added: Tensor = self.relu(self.conv2d(super().forward(maps)) * self.scale + maps)
        return added


def inception_resnet_v2() -> nn.Sequential:
    """Return the network from normalised images (N, 3, H, W), sides of 75 or more, to maps (N, 1536, h, w).

    Source: Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual Connections
    on Learning", AAAI 2017, arXiv:1602.07261, Section 3.2. Widths, scales (0.17, 0.10, 0.20 and an unscaled last
    block) and the linear last block are those of the published ImageNet weights, which differ from the figures.
    """
    return nn.Sequential(
        Convolution(3, 32, 3, stride=2),
        Convolution(32, 32, 3),
        Convolution(32, 64, 3, same=True),
        nn.MaxPool2d(3, stride=2),
        Convolution(64, 80),
        Convolution(80, 192, 3),
        nn.MaxPool2d(3, stride=2),
        _mixed_5b(),
        nn.Sequential(*(_block_35() for _ in range(_BLOCKS_35))),
        _mixed_6a(),
        nn.Sequential(*(_block_17() for _ in range(_BLOCKS_17))),
        _mixed_7a(),
        nn.Sequential(*(_block_8(scale=0.20) for _ in range(_BLOCKS_8))),
        _block_8(scale=1.0, activate=False),
        Convolution(2080, WIDTH),
    )


def _mixed_5b() -> Branches:
    return Branches(
        Convolution(192, 96),
        nn.Sequential(Convolution(192, 48), Convolution(48, 64, 5, same=True)),
        nn.Sequential(Convolution(192, 64), Convolution(64, 96, 3, same=True), Convolution(96, 96, 3, same=True)),
        nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), Convolution(192, 64)),
    )


def _block_35() -> Residual:
    return Residual(
        Convolution(320, 32),
        nn.Sequential(Convolution(320, 32), Convolution(32, 32, 3, same=True)),
        nn.Sequential(Convolution(320, 32), Convolution(32, 48, 3, same=True), Convolution(48, 64, 3, same=True)),
        channels=(128, 320),
        scale=0.17,
    )


def _mixed_6a() -> Branches:
    return Branches(
        Convolution(320, 384, 3, stride=2),
        nn.Sequential(Convolution(320, 256), Convolution(256, 256, 3, same=True), Convolution(256, 384, 3, stride=2)),
        nn.MaxPool2d(3, stride=2),
    )


def _block_17() -> Residual:
    factored = (Convolution(128, 160, (1, 7), same=True), Convolution(160, 192, (7, 1), same=True))
    return Residual(
        Convolution(1088, 192),
        nn.Sequential(Convolution(1088, 128), *factored),
        channels=(384, 1088),
        scale=0.10,
    )


def _mixed_7a() -> Branches:
    return Branches(
        nn.Sequential(Convolution(1088, 256), Convolution(256, 384, 3, stride=2)),
        nn.Sequential(Convolution(1088, 256), Convolution(256, 288, 3, stride=2)),
        nn.Sequential(Convolution(1088, 256), Convolution(256, 288, 3, same=True), Convolution(288, 320, 3, stride=2)),
        nn.MaxPool2d(3, stride=2),
    )


def _block_8(*, scale: float, activate: bool = True) -> Residual:
    factored = (Convolution(192, 224, (1, 3), same=True), Convolution(224, 256, (3, 1), same=True))
    return Residual(
        Convolution(2080, 192),
        nn.Sequential(Convolution(2080, 192), *factored),
        channels=(448, 2080),
        scale=scale,
        activate=activate,
    )
