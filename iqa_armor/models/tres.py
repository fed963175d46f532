"""TReS: the stages of a ResNet-50, pooled and related to one another by a transformer of plain layers."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.models.base import Preprocessing
from iqa_armor.models.build import RESNET_TRUNK
from iqa_armor.models.weights import load_strict

STAGES = (256, 512, 1024, 2048)  # channels of the four stages
WIDTH = sum(STAGES)
_JOINT = ".in_proj_"
_PARTS = ("query", "key", "value")
load_official = load_strict  # takes the authors' names, too


class TReS(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 33 pixels on, giving (N, 1) that rises with quality.

    Each stage's map is normalised over its channels, L2-pooled and averaged down to the size of the last one; a
    transformer relates the places of the joined maps. Its mean and the mean of the last stage are regressed together.

    The original takes 224 × 224 pixels (221 to 224), where the joined map has 7 × 7 places. (ours) Elsewhere positions
    are made for the places that there are, and pooling is adaptive. `model.fc`, the ImageNet classifier, touches no
    score. The authors' constant Hann windows are two averages of 2 × 2 here.

    Source: Golestaneh, Dadsetan, Kitani, "No-Reference Image Quality Assessment via Transformers, Relative Ranking, and
    Self-Consistency", WACV 2022, arXiv:2108.06858, Section 3.
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
        maps = [network.maxpool(network.relu(network.bn1(network.conv1(images))))]
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            maps.append(stage(maps[-1]))
        return maps[1:]

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return an authors' state dict under this network's names; what is no Hann window stays, to be refused."""
        positions = {f"position.{name}": value for name, value in _position_weights(WIDTH).items()}
        return positions | project({name: value for name, value in state.items() if not _is_hann(name, value)})


class L2Pooling(nn.Module):
    """Square root of the Hann-weighted mean of squares over 3 × 3 pixels, zero outside: (N, C, H, W) to the same.

    Source: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", 2020, eq. 1. The
    window [1 2 1]ᵀ[1 2 1] / 16 is the mean over 2 × 2 pixels taken twice, which needs no weight per channel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.AvgPool2d(2, stride=1, padding=1), nn.AvgPool2d(2, stride=1)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.sqrt(self.second(self.first(maps * maps)) + 1e-12)


class Position(nn.Module):
    """Sinusoidal embedding of the places of a map (N, C, H, W), row by row: (N, H·W, C).

    Half the channels speak of the row, half of the column, counted from 1 and scaled to 2π; sine and cosine take turns:
    sin(a_c · row + b_c · column + p_c), a linear layer and a sine, whose channels pruning takes along with the maps'.

    Source: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, Appendix A.4.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wave = nn.Linear(2, width)
        for name, value in _position_weights(width).items():
            self.get_parameter(name).data.copy_(value)

    def forward(self, maps: Tensor) -> Tensor:
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


class Transformer(nn.Module):
    """Encoder over tokens (N, T, width) with positions (N, T, width), normalised before each part and at the end.

    `heads` divides `width`; `hidden` is the width inside the feed-forward parts.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; positions are added to queries and keys of every
    layer, as in Carion et al., ECCV 2020, Appendix A.3.
    """

    def __init__(self, width: int, *, heads: int, layers: int, hidden: int, dropout: float) -> None:
        super().__init__()
        stack = nn.ModuleList(_EncoderLayer(width, heads, hidden, dropout=dropout) for _ in range(layers))
        self.encoder = nn.ModuleDict({"layers": stack, "norm": nn.LayerNorm(width)})

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        for layer in cast("nn.ModuleList", self.encoder["layers"]):
            tokens = layer(tokens, positions)
        return self.encoder["norm"](tokens)  # type: ignore[no-any-return]


class _EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, dropout=dropout)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.relu = nn.ReLU()
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(dropout) for _ in range(3))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        tokens = tokens + self.dropout1(self.self_attn(normed, normed + positions))
        hidden = self.dropout(self.relu(self.linear1(self.norm2(tokens))))
        return tokens + self.dropout2(self.linear2(hidden))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head attention whose projections are layers: pruning the tokens' channels leaves the heads whole."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in _PARTS)
        self.softmax = nn.Softmax(dim=-1)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, placed: Tensor) -> Tensor:
        """Return what every token (N, T, width) gathers; `placed` are the tokens with their positions added."""
        query, key, value = (
            layer(given).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, given in ((self.query, placed), (self.key, placed), (self.value, tokens))
        )
        weights = self.dropout(self.softmax(query.matmul(key.transpose(2, 3)) * self.scale))
        return self.out_proj(weights.matmul(value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def project(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with torch's joint projections `in_proj_weight`, `in_proj_bias` parted in three."""
    parted: dict[str, Tensor] = {}
    for name, value in state.items():
        owner, joint, kind = name.rpartition(_JOINT)
        if joint and len(value) % len(_PARTS) == 0:
            parted.update({f"{owner}.{part}.{kind}": third for part, third in zip(_PARTS, value.chunk(3), strict=True)})
        else:
            parted[name] = value
    return parted


tres_network = TReS
