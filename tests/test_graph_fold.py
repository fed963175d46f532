"""What no image changes is computed once, and functions on a network's own weights become layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from iqa_armor.artifact.storage import rebuilt
from iqa_armor.graph.trace import lay_out, trace
from iqa_armor.models.base import Preprocessing, QualityModel


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Network(nn.Module):
    """A convolution, a normalisation and a head for the forward passes below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8, 1)
        self.gain, self.places = nn.Parameter(torch.rand(8, 1, 1, 1)), nn.Parameter(torch.rand(8))
        self.norm.running_mean.uniform_()

    def maps(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.maps(x)).mean((2, 3)))


class Standardised(Network):
    def maps(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        return functional.conv2d(x, (weight - weight.mean((1, 2, 3), keepdim=True)) * self.gain, self.conv.bias, 2, 1)


class Plain(Network):
    def maps(self, x: Tensor) -> Tensor:
        maps = functional.conv2d(x, self.conv.weight, self.conv.bias, (2, 2), (1, 1))
        norm = self.norm
        maps = functional.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training)
        return functional.layer_norm(maps, (8,), self.places, None)


class Twice(Network):
    """The same weights at another stride: a layer of its own, which shares them."""

    def maps(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        once = functional.conv2d(x, weight, bias, 2, 1)
        return (
            once
            + functional.conv2d(x, weight, bias, 4, 1).repeat(1, 1, 2, 2)
            + functional.conv2d(x, weight, bias, 2, 1)
        )


class Powers(Network):
    def maps(self, x: Tensor) -> Tensor:
        places = 10000 ** (torch.arange(8, device=x.device) / 8)
        return self.conv(x) * torch.stack([places.sin(), places.cos()]).sum(0).view(1, -1, 1, 1)


class Grid(Network):
    """A table made for the size of the maps."""

    def maps(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        height, width = maps.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return maps * (rows + columns) if height < 100 else maps


LAYERS = [Standardised, Plain, Twice]
TABLES = [Powers, Grid]


def functions(traced: fx.GraphModule) -> set[str]:
    return {node.target.__name__ for node in traced.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("make", LAYERS + TABLES)
def test_the_graph_gives_what_the_network_gives(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().eval()
    traced = trace(network, images(1))
    for count in (1, 3):
        torch.testing.assert_close(traced(images(count)), network(images(count)))
    assert not functions(traced) & {"arange", "pow", "meshgrid", "sub", "conv2d", "batch_norm", "layer_norm"}


def test_layers_keep_the_names_of_their_weights() -> None:
    traced = trace(Standardised().eval(), images(1))
    assert isinstance(traced.conv, nn.Conv2d)
    assert traced.conv.weight.requires_grad
    assert {"conv.weight", "conv.bias"} == {name for name in traced.state_dict() if name.startswith("conv")}
    assert "gain" not in traced.state_dict()


def test_a_weight_used_in_two_ways_stays_one() -> None:
    traced = trace(Twice().eval(), images(1))
    found = [module for module in traced.modules() if isinstance(module, nn.Conv2d)]
    assert [layer.stride for layer in found] == [(2, 2), (4, 4)]
    assert found[0].weight is found[1].weight


def test_tables_are_stored_as_buffers() -> None:
    for make in TABLES:
        traced = trace(make().eval(), images(1))
        assert any(name.startswith("folded_") for name, _ in traced.named_buffers())


def test_what_is_learned_stays_apart_where_no_layer_reads_it() -> None:
    class Scaled(Network):
        def maps(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.gain.exp().view(1, -1, 1, 1)

    traced = trace(Scaled().eval(), images(1))
    assert "gain" in dict(traced.named_parameters())


def test_what_is_drawn_or_written_to_is_not_stored() -> None:
    class Drawn(Network):
        def maps(self, x: Tensor) -> Tensor:
            table = torch.zeros(8, 1, 1, device=x.device) + torch.rand(8, 1, 1, device=x.device)
            total = torch.zeros(1, device=x.device)
            total.add_(x.mean())
            return self.conv(x) * table + total

    traced = trace(Drawn().eval(), images(1))
    assert "rand" in functions(traced)
    first, second = traced(images()), traced(images())
    assert not torch.equal(first, second)


def test_a_size_may_be_compared_with_a_size() -> None:
    class Comparing(Network):
        def maps(self, x: Tensor) -> Tensor:
            assert x.shape[2:] == torch.Size([16, 16])
            return self.conv(x)

    network = Comparing().eval()
    torch.testing.assert_close(trace(network, images(1))(images()), network(images()))


def transposed(network: Weighted) -> None:
    network.weight = nn.Parameter(torch.randn(64, 48).t())


def expanded(network: Weighted) -> None:
    network.shift = nn.Buffer(torch.randn(1).expand(64))


def channels_last(network: Weighted) -> None:
    network.to(memory_format=torch.channels_last)


def folded(network: Weighted) -> None:
    network.turned = True


class Weighted(nn.Module):
    """Weights that some constructors lay out otherwise in memory than a file does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.turned = nn.Conv2d(3, 48, 3, 2, 1), False
        self.weight, self.shift = nn.Parameter(torch.randn(48, 64)), nn.Buffer(torch.zeros(64))
        self.table = nn.Buffer(torch.randn(64, 48))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + self.table.exp().permute(1, 0) if self.turned else self.weight
        return (self.conv(x).mean((2, 3)) @ weight + self.shift).tanh().mean(1)


@pytest.mark.parametrize("laid", [transposed, expanded, channels_last, folded])
def test_tensors_lie_in_memory_as_their_file_will_give_them(laid: Callable[[Weighted], None]) -> None:
    torch.manual_seed(0)
    network = Weighted().eval()
    laid(network)
    traced = trace(network, images())
    assert torch.equal(traced(images()), network(images()))
    lay_out(traced)
    held = {**dict(traced.named_parameters()), **dict(traced.named_buffers())}
    assert [name for name, value in held.items() if not value.is_contiguous()] == []
    torch.testing.assert_close(traced(images()), network(images()))
    model = QualityModel(traced, Preprocessing(), name="laid")
    assert torch.equal(rebuilt(model).network(images()), traced(images()))


class CentralDifference(Network):
    """A layer that is called, and whose weights make those of another: central difference convolution."""

    def maps(self, x: Tensor) -> Tensor:
        middle = self.conv.weight.sum((2, 3), keepdim=True)
        return self.conv(x) - 0.7 * functional.conv2d(x, middle, None, 2)


class Summed(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + functional.linear(self.norm(self.maps(x)).mean((2, 3)), self.head.weight.abs())


@pytest.mark.parametrize("kind", [CentralDifference, Summed])
def test_layers_whose_weights_make_others_are_stored(kind: type[Network]) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    traced = trace(network, images())
    model = QualityModel(traced, Preprocessing(), name="made")
    assert torch.equal(rebuilt(model).network(images()), traced(images()))
    torch.testing.assert_close(traced(images()), network(images()))
