"""TReS: the stages of a ResNet-50, pooled and related to one another by a transformer."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.models.base import Preprocessing
from iqa_armor.models.build import RESNET_TRUNK
from iqa_armor.models.transformer import Transformer, project
from iqa_armor.models.weights import load_strict

STAGES = (256, 512, 1024, 2048)  # channels of the four stages
WIDTH = sum(STAGES)


class TReS(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 33 pixels on, giving (N, 1) that rises with quality.

    Each stage's map is normalised over its channels, L2-pooled with a Hann window and averaged down to the size of
    the last one; a transformer relates the places of the joined maps to one another. Its mean and the mean of the last
    stage are regressed together.

    The original takes 224 × 224 pixels (221 to 224), where the joined map has 7 × 7 places. (ours) Elsewhere the
    position embedding is made for the places that there are, and pooling is adaptive; at 221 to 224 nothing differs.
    `model.fc`, the ImageNet classifier, is in the authors' files but touches no score. Their Hann windows, four
    constants, are two averages of 2 × 2 here.

    Source: Golestaneh, Dadsetan, Kitani, "No-Reference Image Quality Assessment via Transformers, Relative Ranking,
    and Self-Consistency", WACV 2022, arXiv:2108.06858, Section 3.
    """

    # The authors average 50 random crops of this size; resizing the whole image is (ours).
    preprocessing = Preprocessing(size=(224, 224), interpolation="bilinear")

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.classifier_places = {part: f"model.{part}" for part in RESNET_TRUNK}
        self.model: nn.Module = resnet50(weights=None)
        self.pools = nn.ModuleList(L2Pooling() for _ in STAGES)
        self.drop2d = nn.Dropout(0.1)
        self.position = Position(WIDTH)
        self.transformer = Transformer(WIDTH, heads=16, layers=2, hidden=64, dropout=0.5)
        self.fc2 = nn.Linear(WIDTH, STAGES[-1])
        self.fc = nn.Linear(2 * STAGES[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        stages = self._stages(images)
        size = (stages[-1].shape[2], stages[-1].shape[3])
        pooled = [
            functional.adaptive_avg_pool2d(self.drop2d(pool(functional.normalize(stage, dim=1))), size)
            for pool, stage in zip(self.pools, stages, strict=True)
        ]
        joined = torch.cat(pooled, dim=1)
        related = self.transformer(joined.flatten(2).transpose(1, 2), self.position(joined))
        both = torch.cat((self.fc2(related.mean(1)), stages[-1].mean((2, 3))), dim=1)
        return self.fc(both)  # type: ignore[no-any-return]

    def _stages(self, images: Tensor) -> list[Tensor]:
        network: Any = self.model
        maps = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        stages = []
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            maps = stage(maps)
            stages.append(maps)
        return stages

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return an authors' state dict under this network's names.

        The joint projections of queries, keys and values are parted, the constant position weights added, and the
        constant Hann windows left out. A window of other values stays, and so is refused as unexpected.
        """
        adapted = project({name: value for name, value in state.items() if not _is_hann(name, value)})
        for name, value in _position_weights(WIDTH).items():
            adapted.setdefault(f"position.{name}", value)
        return adapted


class L2Pooling(nn.Module):
    """Square root of the Hann-weighted mean of squares over 3 × 3 pixels, zero outside: (N, C, H, W) to the same.

    Source: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", 2020, eq. 1. The
    window [1 2 1]ᵀ[1 2 1] / 16 is the mean over 2 × 2 pixels taken twice, which needs no weight per channel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.AvgPool2d(2, stride=1, padding=1)
        self.second = nn.AvgPool2d(2, stride=1)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.sqrt(self.second(self.first(maps * maps)) + 1e-12)


class Position(nn.Module):
    """Sinusoidal embedding of the places of a map (N, C, H, W): (N, H·W, C).

    Half the channels speak of the row, half of the column, each counted from 1 and scaled to 2π; sine and cosine take
    turns. Channel c is sin(a_c · row + b_c · column + p_c), a linear layer and a sine, so that pruning takes its
    channels along with those it is added to.

    Source: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, Appendix A.4.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wave = nn.Linear(2, width)
        for name, value in _position_weights(width).items():
            self.get_parameter(name).data.copy_(value)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the embedding of the places of `maps`, row by row."""
        ones = torch.ones_like(maps[:, :1])
        counts = [torch.cumsum(ones, dim) * (2 * math.pi / (maps.shape[dim] + 1e-6)) for dim in (2, 3)]
        places = torch.cat(counts, dim=1).flatten(2).transpose(1, 2)
        return torch.sin(self.wave(places))


def _position_weights(width: int) -> dict[str, Tensor]:
    """Return weight (width, 2) and bias (width,) of the waves over (row, column)."""
    half = width // 2
    index = torch.arange(half, device="cpu")
    frequency = 10000.0 ** (-2.0 * (index // 2).double() / half)
    weight = torch.zeros(width, 2, dtype=torch.float64, device="cpu")
    weight[:half, 0], weight[half:, 1] = frequency, frequency
    phase = (index % 2).double() * (math.pi / 2)
    return {"wave.weight": weight.float(), "wave.bias": torch.cat((phase, phase)).float()}


def _is_hann(name: str, value: Tensor) -> bool:
    if not (name.startswith("L2pooling_l") and name.endswith(".filter") and value.shape[1:] == (1, 3, 3)):
        return False
    side = torch.tensor([1.0, 2.0, 1.0], device="cpu") / 4
    return bool(torch.allclose(value.float(), torch.outer(side, side), atol=1e-6))


tres_network = TReS
load_official = load_strict  # takes the authors' names, too
