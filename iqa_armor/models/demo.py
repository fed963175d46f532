"""The small network that the package ships weights for."""

from itertools import pairwise

from torch import Tensor, nn

from iqa_armor.models.base import Preprocessing

DEMO_PREPROCESSING = Preprocessing(size=None)  # images keep their size
STEM_CHANNELS, STAGE_CHANNELS = 16, (32, 64, 128, 192)


class DemoNetwork(nn.Module):
    """Plain convolutional network of normalised images (N, 3, H, W), sides of 64 pixels or more, giving (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, STEM_CHANNELS, stride=2))
        self.stages = nn.Sequential()
        for index, (channels, outputs) in enumerate(pairwise((STEM_CHANNELS, *STAGE_CHANNELS)), start=1):
            layers = (*_convolution(channels, outputs, stride=2), *_convolution(outputs, outputs, stride=1))
            self.stages.add_module(f"stage{index}", nn.Sequential(*layers))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(STAGE_CHANNELS[-1], 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.stages(self.stem(images))))  # type: ignore[no-any-return]


def _convolution(channels: int, outputs: int, *, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


demo_network = DemoNetwork  # the name in the file that is shipped
