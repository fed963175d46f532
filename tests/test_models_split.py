"""A network split at a tensor computes the same, and refuses to be split where something passes around."""

from __future__ import annotations

import pytest
import torch
from conftest import small_network
from torch import Tensor, fx, nn

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.trace import trace_shared
from iqa_armor.graph.walk import passages
from iqa_armor.models.build import torchvision_network
from iqa_armor.models.demo import demo_network
from iqa_armor.models.published import linearity_network
from iqa_armor.models.split import split_network

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Tapped(nn.Module):
    """A head that also reads an earlier map, and the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.score = nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        early = self.first(images).relu()
        late = self.second(early).relu_()
        both = torch.cat((early.mean((2, 3)), late.mean((2, 3))), dim=1)
        return self.score(both.view(images.shape[0], -1))


class Overwriting(nn.Module):
    """An operation in place whose result nobody reads by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.score = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        maps.abs_()
        return self.score(maps.mean((2, 3)))


def features_of(name: str) -> tuple[nn.Module, int]:
    """Return a network by name and the length of the vectors that its head reads."""
    made = {
        "resnet18": (lambda: torchvision_network("resnet18"), 512),
        "mobilenet_v2": (lambda: torchvision_network("mobilenet_v2"), 1280),
        "demo": (demo_network, 192),
        "linearity": (lambda: linearity_network("resnet18"), 128),
        "sequential": (small_network, 32),
        "overwriting": (Overwriting, 4),
    }
    build, length = made[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval(), length


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "demo", "linearity", "sequential", "overwriting"])
@pytest.mark.parametrize("is_traced", [False, True])
@torch.no_grad()
def test_head_of_backbone_has_the_bits_of_the_network(name: str, is_traced: bool) -> None:
    network, length = features_of(name)
    given = fx.symbolic_trace(network) if is_traced else network
    backbone, head = split_network(given, example=IMAGES)
    features = backbone(IMAGES)
    assert features.shape == (2, length)
    torch.testing.assert_close(head(features), network(IMAGES), rtol=0, atol=0)


@torch.no_grad()
def test_every_passage_can_be_split_at_bit_for_bit() -> None:
    network, _ = features_of("resnet18")
    scores = network(IMAGES)
    nodes = passages(trace_shared(network, IMAGES).graph)
    assert {"relu", "maxpool", "flatten"} <= {node.name for node in nodes}
    for node in nodes[1:]:
        backbone, head = split_network(network, node.name, example=IMAGES)
        torch.testing.assert_close(head(backbone(IMAGES)), scores, rtol=0, atol=0)


def test_a_module_names_its_last_tensor() -> None:
    network, _ = features_of("resnet18")
    backbone, _ = split_network(network, "layer3", example=IMAGES)
    assert backbone(IMAGES).shape == (2, 256, 4, 4)


def test_the_layers_are_shared_and_the_mode_stays() -> None:
    network = small_network().train()
    backbone, head = split_network(network, example=IMAGES)
    assert all(module.training for module in network.modules())
    own = {id(parameter) for parameter in network.parameters()}
    parts = [*backbone.parameters(), *head.parameters()]
    assert {id(parameter) for parameter in parts} == own


def test_a_split_with_a_way_around_is_refused() -> None:
    with pytest.raises(SurgeryError, match=r"also reads .*mean.*e\.g\. at view"):
        split_network(Tapped(), "relu_", example=IMAGES)


def test_a_size_read_early_is_a_way_around_and_named() -> None:
    with pytest.raises(SurgeryError, match=r"also reads (getattr|getitem)"):
        split_network(Tapped(), "cat", example=IMAGES)
    backbone, _ = split_network(Tapped(), example=IMAGES)
    assert backbone(IMAGES).shape == (2, 8)


def test_an_unknown_node_is_refused_with_those_there_are() -> None:
    with pytest.raises(SurgeryError, match=r"no tensor is called 'layer9'.*flatten"):
        split_network(torchvision_network("resnet18"), "layer9", example=IMAGES)


def test_a_network_without_vectors_asks_for_a_node() -> None:
    network = nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(SurgeryError, match="node=NAME"):
        split_network(network, example=IMAGES)


def test_a_network_that_cannot_be_followed_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3)) if images.mean() > 0 else images.sum((1, 2, 3))

    with pytest.raises(SurgeryError, match="cannot be traced"):
        split_network(Branching(), example=IMAGES)


def test_flattened_pixels_are_no_features() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 1))
    backbone, _ = split_network(network, example=torch.rand(2, 3, 2, 2))
    assert backbone(torch.rand(2, 3, 2, 2)).shape == (2, 7)
