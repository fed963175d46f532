"""Inception-ResNet-v2 up to its last map, which torchvision does not have."""

import torch
from torch import Tensor, nn

WIDTH = 1536  # channels of the last map
Pair = tuple[int, int]


class _Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU; with `same`, zero padding keeps the map size at stride 1."""

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
        return self.relu(self.bn(self.conv(maps)))  # type: ignore[no-any-return]


class _Branches(nn.Module):
    """Branches side by side, named branch0, branch1, … in the state dict; the channels of their maps are joined."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.names = [f"branch{index}" for index in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            self.add_module(name, branch)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(name)(maps) for name in self.names], dim=1)


class _Residual(_Branches):
    """Joined branches, brought from `channels[0]` to the input's `channels[1]`, scaled and added to the input."""

    def __init__(self, *branches: nn.Module, channels: Pair, scale: float, activate: bool = True) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(*channels, 1)
        self.scale = scale
        self.relu = nn.ReLU() if activate else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.relu(self.conv2d(super().forward(maps)) * self.scale + maps)  # type: ignore[no-any-return]


def inception_resnet_v2() -> nn.Sequential:
    """Return the network from normalised images (N, 3, H, W), sides of 75 or more, to maps (N, 1536, h, w).

    Source: Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual Connections
    on Learning", AAAI 2017, arXiv:1602.07261, Section 3.2. Widths, scales (0.17, 0.10, 0.20 and an unscaled last
    block) and the linear last block are those of the published ImageNet weights, which differ from the figures.
    """
    return nn.Sequential(
        _Conv(3, 32, 3, stride=2),
        _Conv(32, 32, 3),
        _Conv(32, 64, 3, same=True),
        nn.MaxPool2d(3, stride=2),
        _Conv(64, 80),
        _Conv(80, 192, 3),
        nn.MaxPool2d(3, stride=2),
        _Branches(
            _Conv(192, 96),
            nn.Sequential(_Conv(192, 48), _Conv(48, 64, 5, same=True)),
            nn.Sequential(_Conv(192, 64), _Conv(64, 96, 3, same=True), _Conv(96, 96, 3, same=True)),
            nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), _Conv(192, 64)),
        ),
        nn.Sequential(*(_block_35() for _ in range(10))),
        _Branches(
            _Conv(320, 384, 3, stride=2),
            nn.Sequential(_Conv(320, 256), _Conv(256, 256, 3, same=True), _Conv(256, 384, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        ),
        nn.Sequential(*(_factored(1088, (128, 160, 192), 7, scale=0.10) for _ in range(20))),
        _Branches(
            nn.Sequential(_Conv(1088, 256), _Conv(256, 384, 3, stride=2)),
            nn.Sequential(_Conv(1088, 256), _Conv(256, 288, 3, stride=2)),
            nn.Sequential(_Conv(1088, 256), _Conv(256, 288, 3, same=True), _Conv(288, 320, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        ),
        nn.Sequential(*(_factored(2080, (192, 224, 256), 3, scale=0.20) for _ in range(9))),
        _factored(2080, (192, 224, 256), 3, scale=1.0, activate=False),
        _Conv(2080, WIDTH),
    )


def _block_35() -> _Residual:
    return _Residual(
        _Conv(320, 32),
        nn.Sequential(_Conv(320, 32), _Conv(32, 32, 3, same=True)),
        nn.Sequential(_Conv(320, 32), _Conv(32, 48, 3, same=True), _Conv(48, 64, 3, same=True)),
        channels=(128, 320),
        scale=0.17,
    )


def _factored(width: int, widths: tuple[int, int, int], side: int, *, scale: float, activate: bool = True) -> _Residual:
    first, second, third = widths
    factored = (_Conv(first, second, (1, side), same=True), _Conv(second, third, (side, 1), same=True))
    short, branch = _Conv(width, 192), nn.Sequential(_Conv(width, first), *factored)
    return _Residual(short, branch, channels=(192 + third, width), scale=scale, activate=activate)
