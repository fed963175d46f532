"""Channels are followed through whatever a network does to them, and what is left is what was there."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iqa_armor.graph.trace import trace
from iqa_armor.pruning.channels.labels import Units, along, compressed, spread, varying
from iqa_armor.pruning.channels.proof import difference
from iqa_armor.pruning.coupling import Coupling
from iqa_armor.pruning.prune import prune

SIDE = 32
Forward = Callable[[nn.Module, Tensor], Tensor]


def stage(before: int, after: int, *, stride: int = 2, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


class Network(nn.Module):
    """Two stages, something in between, a head; what happens in between is told by functions."""

    def __init__(self, between: Forward, *, width: int = 16, head: Forward | None = None, features: int = 16) -> None:
        super().__init__()
        self.first, self.second = stage(3, width), stage(width, 16)
        self.between, self.head = between, head or (lambda net, maps: maps.mean((2, 3)))
        self.fc = nn.Linear(features, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.head(self, self.second(self.between(self, self.first(images)))))


def shuffled(net: nn.Module, maps: Tensor) -> Tensor:
    n, c, h, w = maps.shape
    return maps.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)


def gated(net: nn.Module, maps: Tensor) -> Tensor:
    value, gate = maps.chunk(2, 1)
    return torch.cat([value * gate.sigmoid(), value], 1)


def attended(net: nn.Module, maps: Tensor) -> Tensor:
    tokens = maps.flatten(2).transpose(1, 2)
    weights = (tokens @ tokens.transpose(1, 2) / maps.shape[1] ** 0.5).softmax(-1)
    return (weights @ tokens).transpose(1, 2).reshape(maps.shape)


def read_twice(maps: Tensor) -> Tensor:
    twice = 2 * maps
    gate = twice.sigmoid()
    twice.add_(1)
    return maps + (twice * gate).sum(1, keepdim=True)


def into_a_view(maps: Tensor) -> Tensor:
    whole = maps.clone()
    whole[:, ::2].add_(1)
    return maps + whole.mean(1, keepdim=True)


EVEN = torch.arange(16) % 2 == 0
BETWEEN: dict[str, Forward] = {
    "nothing": lambda net, maps: maps,
    "flip": lambda net, maps: maps.flip(1),
    "flip and add": lambda net, maps: maps + maps.flip(1),
    "roll": lambda net, maps: maps.roll(3, 1),
    "shuffle by view": shuffled,
    "shuffle": lambda net, maps: F.channel_shuffle(maps, 4),
    "slices": lambda net, maps: torch.cat([maps[:, 8:], maps[:, :8] * 2], 1),
    "a slice from behind": lambda net, maps: torch.cat([maps[:, -4:], maps[:, :-4]], 1),
    "an index": lambda net, maps: maps * maps[:, 3:4],
    "gate": gated,
    "narrow": lambda net, maps: torch.cat([maps.narrow(1, 4, 12), maps.narrow(1, 0, 4)], 1),
    "split of unequal parts": lambda net, maps: torch.cat([*reversed(maps.split([4, 12], 1))], 1),
    "mean over channels": lambda net, maps: maps + maps.mean(1, keepdim=True),
    "norm over channels": lambda net, maps: F.normalize(maps, dim=1) + maps.norm(dim=1, keepdim=True),
    "maximum over channels": lambda net, maps: maps * maps.amax(1, keepdim=True),
    "softmax over channels": lambda net, maps: maps * maps.softmax(1),
    "softmax over places": lambda net, maps: maps * maps.flatten(2).softmax(2).view_as(maps),
    "layer norm": lambda net, maps: F.layer_norm(maps.permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2),
    "attention": attended,
    "attention in heads": lambda net, maps: (
        F.scaled_dot_product_attention(
            *[maps.flatten(2).transpose(1, 2).view(maps.shape[0], -1, 2, 8).transpose(1, 2)] * 3
        )
        .permute(0, 1, 3, 2)
        .reshape(maps.shape)
    ),
    "pooling and resizing": lambda net, maps: F.interpolate(F.max_pool2d(maps, 2), size=maps.shape[2:]),
    "padding of maps": lambda net, maps: F.pad(maps, (1, 2, 0, 1)),
    "padding of channels": lambda net, maps: F.pad(maps, (0, 0, 0, 0, 2, -2)),
    "pixels to channels and back": lambda net, maps: F.pixel_shuffle(F.pixel_unshuffle(maps, 2), 2),
    "written in place": lambda net, maps: maps.clone().index_fill_(1, torch.tensor([0, 5]), 0.0),
    "interleaved": lambda net, maps: torch.stack(maps.chunk(2, 1), 2).flatten(1, 2),
    "a batch of two": lambda net, maps: sum(torch.cat([maps, maps.flip(1)]).relu().chunk(2)),
    "depth to space and back": lambda net, maps: F.pixel_unshuffle(
        maps.view(-1, 2, 2, 4, 16, 16).permute(0, 3, 4, 1, 5, 2).reshape(-1, 4, 32, 32), 2
    ),
    "a table of channels": lambda net, maps: maps.index_select(1, torch.arange(16).roll(5)),
    "gathered": lambda net, maps: maps.gather(1, torch.arange(16).flip(0).view(1, -1, 1, 1).expand_as(maps)),
    "means of groups": lambda net, maps: maps + maps.unflatten(1, (4, 4)).mean(2).repeat_interleave(4, 1),
    "attention by einsum": lambda net, maps: torch.einsum(
        "ncd,ndhw->nchw", torch.einsum("nchw,ndhw->ncd", maps, maps).softmax(-1), maps
    ),
    "sorted": lambda net, maps: maps.sort(1).values,
    "median": lambda net, maps: maps - maps.median(1, keepdim=True).values,
    "padded as in PyramidNet": lambda net, maps: (
        torch.cat([maps, maps.flip(1)], 1) + F.pad(maps, (0, 0, 0, 0, 0, 16))
    )[:, :16],
    "one added in place, mean over channels": lambda net, maps: maps + maps.clone().add_(1).mean(1, keepdim=True),
    "exp in place, sum over channels": lambda net, maps: maps + (0.1 * maps).exp_().sum(1, keepdim=True),
    "in place twice": lambda net, maps: maps + (2 * maps).add_(1).mul_(0.1).sum(1, keepdim=True),
    "in place, read twice": lambda net, maps: read_twice(maps),
    "into a view, mean over channels": lambda net, maps: into_a_view(maps),
    "sum along NumPy's axis": lambda net, maps: maps + maps.sum(axis=1, keepdims=True),
    "a mask of channels": lambda net, maps: torch.cat([maps[:, EVEN], maps[:, ~EVEN] * 2], 1),
    "a constant per channel": lambda net, maps: maps * torch.linspace(0.5, 1.5, 16).view(1, -1, 1, 1),
}
HEADS: dict[str, tuple[Forward, int]] = {
    "flatten": (lambda net, maps: F.adaptive_avg_pool2d(maps, 2).flatten(1), 64),
    "flatten places first": (lambda net, maps: F.adaptive_avg_pool2d(maps, 2).permute(0, 2, 3, 1).flatten(1), 64),
    "a width that is written": (lambda net, maps: F.adaptive_avg_pool2d(maps, 1).view(-1, 16), 16),
    "mean and deviation": (lambda net, maps: torch.cat([maps.mean((2, 3)), maps.std((2, 3))], 1), 32),
    "squeeze": (lambda net, maps: F.adaptive_avg_pool2d(maps, 1).squeeze(-1).squeeze(-1), 16),
    "bilinear": (lambda net, maps: torch.bmm(maps.flatten(2), maps.flatten(2).mT).flatten(1), 256),
}


def lively(network: nn.Module) -> nn.Module:
    """Give batch norms statistics of their own, and scores some spread."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.4)
    return network.eval()


def proved(network: nn.Module) -> Coupling:
    """Prune every third place of every group and hold the result against the masked original."""
    images = torch.rand(3, 3, SIDE, SIDE)
    traced = trace(lively(network), images[:1])
    coupling = Coupling(traced, images[:1])
    pruned = None
    while pruned is None:
        groups = [(group, len(group.units)) for group in coupling.groups]
        removed = [(group, [c for c in range(group.width) if c % count % 3 == 1]) for group, count in groups]
        pruned = coupling.cut(removed)
    assert difference(traced, pruned.network, coupling.labelling, pruned.gone, images) < 1e-9
    return coupling


@pytest.mark.parametrize("name", BETWEEN)
def test_pruned_is_the_original_without_the_channels(name: str) -> None:
    coupling = proved(Network(BETWEEN[name]))
    assert coupling.groups, "nothing could go"


@pytest.mark.parametrize("name", HEADS)
def test_heads_read_the_channels_that_are_left(name: str) -> None:
    head, features = HEADS[name]
    coupling = proved(Network(BETWEEN["nothing"], head=head, features=features))
    assert len(coupling.groups) == (1 if name == "bilinear" else 2)


class Shared(nn.Module):
    """A body that runs on the image, on half of it, and on what a blur leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Sequential(stage(3, 16), stage(16, 16)), nn.Linear(48, 1)

    def forward(self, images: Tensor) -> Tensor:
        scales = (images, F.avg_pool2d(images, 2), images - F.avg_pool2d(images, 3, 1, 1))
        return self.fc(torch.cat([self.body(scale).mean((2, 3)) for scale in scales], 1))


class FunctionalNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.register_buffer("running_mean", torch.rand(width))
        self.register_buffer("running_var", torch.rand(width) + 0.5)

    def forward(self, maps: Tensor) -> Tensor:
        return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, self.training).relu()


class Eca(nn.Module):
    """Weights of channels by a convolution over their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.conv(maps.mean((2, 3)).unsqueeze(1)).sigmoid().squeeze(1)[..., None, None]


class Scaled(nn.Module):
    """A learned scale per channel, as wide as the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.places = nn.Parameter(torch.rand(16, 1, 1)), nn.Parameter(torch.rand(1, 16, 16, 16))

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.scale + self.places


class Same(nn.Conv2d):
    """Pads by what the size of its weight says, as TensorFlow's."""

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = self.weight.shape[-2:]
        maps = F.pad(maps, (columns // 2, (maps.shape[3] + columns) % 2, rows // 2, (maps.shape[2] + rows) % 2))
        return F.conv2d(maps, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Tied(nn.Module):
    """Layers that share weights, a bias, or both with another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(16, 16, 1) for _ in range(3)), *(nn.BatchNorm2d(16) for _ in range(2)))
        self.layers[1].weight, self.layers[2].bias = self.layers[0].weight, self.layers[0].bias
        self.layers[4].weight = self.layers[3].weight

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps).relu() + maps


def between(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(stage(3, 16), *layers, stage(16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "a body that runs three times": Shared,
    "norm of a function": lambda: between(nn.Conv2d(16, 16, 1), FunctionalNorm(16)),
    "parameters in arithmetic": lambda: between(Scaled()),
    "group norm": lambda: between(nn.GroupNorm(4, 16)),
    "instance norm": lambda: between(nn.InstanceNorm2d(16, affine=True, track_running_stats=True)),
    "PReLU": lambda: between(nn.PReLU(16), nn.PReLU()),
    "depthwise": lambda: between(
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 32, 1, groups=16), stage(32, 16)
    ),
    "grouped": lambda: between(stage(16, 24, groups=4, stride=1), nn.ChannelShuffle(4), stage(24, 16, stride=1)),
    "transposed": lambda: between(
        nn.ConvTranspose2d(16, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2, groups=4), stage(8, 16)
    ),
    "transposed depthwise": lambda: between(nn.ConvTranspose2d(16, 16, 2, 2, groups=16)),
    "weight norm": lambda: between(nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3))),
    "pixel shuffle": lambda: between(nn.PixelUnshuffle(2), stage(64, 64, stride=1), nn.PixelShuffle(2)),
    "ECA": lambda: between(Eca()),
    "norm of all": lambda: between(nn.LayerNorm([16, 16, 16])),
    "local response norm": lambda: between(nn.LocalResponseNorm(5)),
    "across channels": lambda: between(nn.Unflatten(1, (1, 16)), nn.Conv3d(1, 1, 3, padding=1), nn.Flatten(1, 2)),
    "padded as TensorFlow does": lambda: between(Same(16, 16, 3, 2, groups=16), Same(16, 16, 3, bias=False)),
    "tied weights": lambda: between(Tied()),
    "sync norm": lambda: between(nn.SyncBatchNorm(16)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_lose_the_channels_that_go(name: str) -> None:
    assert proved(LAYERS[name]()).groups


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = stage(3, 16), stage(16, 16)
        self.rnn, self.fc = nn.GRU(16, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.second(self.first(images)).flatten(2).transpose(1, 2)
        return self.fc(self.rnn(tokens)[0][:, -1])


def test_what_cannot_be_followed_keeps_its_width_and_the_rest_is_pruned() -> None:
    coupling = proved(Recurrent())
    assert [group.width for group in coupling.groups] == [16]
    assert coupling.reasons == {"rnn": "GRU mixes channels in a way that cannot be followed"}
    traced = trace(lively(Recurrent()), torch.rand(1, 3, SIDE, SIDE))
    pruned = prune(traced, torch.rand(4, 3, SIDE, SIDE), ratio=0.25)
    assert (pruned.network.get_submodule("first.0").out_channels, pruned.network.rnn.input_size) == (12, 16)
    assert pruned.facts()["stays"] == coupling.reasons


def test_a_stored_transform_keeps_its_width() -> None:
    class Transform(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.eye(8).flip(0))

        def forward(self, maps: Tensor) -> Tensor:
            return F.linear(maps, self.table)[..., torch.tensor([5, 2, 7, 0])]

    coupling = proved(nn.Sequential(stage(3, 16), stage(16, 16), Transform(), nn.Flatten(), nn.Linear(16 * 32, 1)))
    assert coupling.groups


class Filters(nn.Module):
    """Filters that nobody learns: high-pass ones, a cosine transform."""

    def __init__(self, call: Forward, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("filters", torch.randn(shape))
        self.call = call

    def forward(self, maps: Tensor) -> Tensor:
        return self.call(self, maps)


FILTERS: list[tuple[int, Forward, tuple[int, ...], int]] = [
    (3, lambda net, maps: F.conv2d(maps, net.filters, padding=1), (16, 3, 3, 3), 16),
    (3, lambda net, maps: F.conv2d(maps, net.filters, groups=3), (24, 1, 3, 3), 24),
    (3, lambda net, maps: F.conv2d(maps.mean(1, True), net.filters, stride=4).abs(), (16, 1, 4, 4), 16),
    (16, lambda net, maps: F.conv2d(maps, net.filters), (16, 16, 1, 1), 16),
    (16, lambda net, maps: F.conv2d(maps, net.filters, groups=4), (16, 4, 1, 1), 16),
    (16, lambda net, maps: F.conv_transpose2d(maps, net.filters, stride=2), (16, 8, 2, 2), 8),
]


@pytest.mark.parametrize(("before", "call", "shape", "after"), FILTERS)
def test_filters_that_are_not_learned_all_stay(before: int, call: Forward, shape: tuple[int, ...], after: int) -> None:
    stages = [*([stage(3, 16)] if before == 16 else []), Filters(call, shape), stage(after, 16)]
    network = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1)).eval()
    pruned = prune(trace(network, torch.rand(1, 3, SIDE, SIDE)), torch.rand(4, 3, SIDE, SIDE), ratio=0.25)
    assert torch.equal(pruned.network.get_submodule(str(len(stages) - 2)).filters, stages[-2].filters)
    assert {name.partition(".")[0] for name in pruned.kept} == {str(len(stages) - 1)}


@pytest.mark.parametrize("cast", [lambda x, other: x.to(other), lambda x, other: x.type_as(other)])
def test_a_tensor_that_only_says_the_kind_couples_nothing(cast: Callable[[Tensor, Tensor], Tensor]) -> None:
    proved(Network(lambda net, maps: maps * cast(torch.full((1, 1, 1, 1), 2.0, device=maps.device), maps)))


@pytest.mark.parametrize(
    "cast", [lambda x: x.float(), lambda x: x.to(torch.float32), lambda x: x.type(torch.float32), lambda x: x.to(x)]
)
def test_a_network_that_casts_to_single_precision_is_proved_in_double(cast: Callable[[Tensor], Tensor]) -> None:
    proved(Network(lambda net, maps: F.layer_norm(cast(maps.mT), maps.shape[2:]).mT.type(maps.dtype)))


def test_norms_over_channels_are_named() -> None:
    traced = trace(lively(between(nn.GroupNorm(4, 16))), torch.rand(1, 3, SIDE, SIDE))
    assert prune(traced, torch.rand(4, 3, SIDE, SIDE)).facts()["normalized_over_channels"] == ["_1"]


def leave_unread(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Set the weights to zero that read nothing but zeros."""
    axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
    layer.weight.data[:, (inputs[0] == 0).all(dim=axes[0]) if len(axes) == 1 else inputs[0].abs().amax(axes) == 0] = 0


def plant_dead_channels(network: nn.Module) -> nn.Module:
    """Make every eighth output of every stage zero and unread, so that removing it changes nothing."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels >= 16:
            module.weight.data[::8] = 0
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                values.data[::8] = 0
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(leave_unread)
    with torch.no_grad():
        network(torch.rand(4, 3, SIDE, SIDE))
    for module in network.modules():
        module._forward_pre_hooks.clear()
    return network


def dead(between: str = "nothing", head: str | None = None) -> nn.Module:
    chosen, features = HEADS[head] if head else (None, 16)
    return Network(BETWEEN[between], head=chosen, features=features)


MOVED = (
    *(
        "flip",
        "roll",
        "shuffle by view",
        "shuffle",
        "slices",
        "a slice from behind",
        "narrow",
        "split of unequal parts",
    ),
    *("pooling and resizing", "padding of maps", "padding of channels", "pixels to channels and back"),
)
KEEPS_FIRST = ("roll", "shuffle by view", "shuffle", "padding of channels")  # two of sixteen cannot go there
# What stands where a channel is zero is not zero there, and is summed.
FILLED: dict[str, Forward] = {
    "softmax by hand": lambda net, maps: maps.exp() / maps.exp().sum(1, keepdim=True),
    "mean of exponentials": lambda net, maps: maps * torch.exp(maps).mean(1, keepdim=True),
    "sum of cosines": lambda net, maps: maps + 0.1 * torch.cos(maps).sum(1, keepdim=True),
    "sum of what is shifted": lambda net, maps: maps * (maps + 1).sum(dim=1, keepdim=True),
    "mean of gates": lambda net, maps: maps * maps.sigmoid().mean(1)[:, None],
    "count of zeros": lambda net, maps: maps * (maps == 0).sum(1, keepdim=True),
    "norm by hand": lambda net, maps: (
        (maps - maps.mean(1, True)) / ((maps - maps.mean(1, True)).pow(2).mean(1, True) + 1e-5).sqrt()
    ),
    "norm of tokens by hand": lambda net, maps: normalized(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "norm of all by hand": lambda net, maps: (
        (maps - maps.mean((1, 2, 3), True)) / ((maps - maps.mean((1, 2, 3), True)) ** 2).mean((1, 2, 3), True)
    ),
    "variance of moments": lambda net, maps: maps / (maps.square().mean(1, True) - maps.mean(1, True) ** 2 + 1).sqrt(),
    "largest deviation": lambda net, maps: maps * torch.maximum(maps - maps.mean(1, True), maps).sum(1, keepdim=True),
    "deviation with a layer": lambda net, maps: maps * nn.Softplus()(maps - maps.mean(1, True)).mean(1, keepdim=True),
    "norm of a pixel's weight": lambda net, maps: maps * (1 + maps).norm(dim=1, keepdim=True),
}


def normalized(tokens: Tensor) -> Tensor:
    centered = tokens - tokens.mean(-1, keepdim=True)
    return centered * torch.rsqrt(centered.square().mean(-1, keepdim=True) + 1e-5)


# What is stored per channel is not zero where a channel is, and stays where it is summed.
STORED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a norm of weights": lambda maps, stored: maps * (stored / stored.norm()) * 4,
    "a norm of what is shifted": lambda maps, stored: F.normalize(maps + stored, dim=1),
    "a mean of distances": lambda maps, stored: maps * (maps - stored).square().mean(1, keepdim=True),
    "a sum of what is scaled and shifted": lambda maps, stored: maps + (maps * stored + stored).sum(1, keepdim=True),
    "a norm of residuals": lambda maps, stored: F.normalize(
        (maps.unsqueeze(1) - stored.expand(1, 2, 16, 1, 1)) * maps.mean(1)[:, None, None], dim=2
    ).sum(1),
    "a root": lambda maps, stored: maps / ((maps.square() + 1).sqrt() * stored).mean(1, keepdim=True),
}


class OfStored(nn.Module):
    def __init__(self, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stored, self.how = nn.Parameter(torch.rand(16, 1, 1) + 0.5), how

    def forward(self, maps: Tensor) -> Tensor:
        return self.how(maps, self.stored)


@pytest.mark.parametrize("name", [*FILLED, *STORED])
def test_what_dead_channels_add_to_a_sum_over_channels_stays(name: str) -> None:
    inside = between(OfStored(STORED[name])) if name in STORED else Network(FILLED[name])
    network = plant_dead_channels(lively(inside))
    second = network.second[0] if isinstance(network, Network) else network[2][0]
    second.weight.data[:, ::8] = 0  # what stands in them need not be zero
    images = torch.rand(16, 3, SIDE, SIDE) * torch.linspace(0.2, 1, 16).view(-1, 1, 1, 1)
    pruned = prune(trace(network, images[:1]), images, ratio=0.125, criterion="l1")
    stays = name in (*STORED, "norm of a pixel's weight")
    assert pruned.share == (0.0625 if stays else 0.125)
    before, after = network(images), pruned.network(images)
    assert (before - after).abs().max() < 1e-3 * before.std()
    assert pruned.proof is not None


@pytest.mark.parametrize(
    "taken",
    [
        lambda maps: torch.cat([maps.narrow(1, 12, 4), maps.narrow(1, 1, 8)], 1),  # some are read by nobody
        lambda maps: torch.cat([maps, maps[:, :3], maps.flip(1)], 1),  # some stand more often than others
        lambda maps: torch.cat([maps, torch.ones_like(maps[:, :2])], 1),
    ],
)
def test_dead_channels_go_first_wherever_they_stand_in_a_layer(taken: Callable[[Tensor], Tensor]) -> None:
    width = taken(torch.rand(1, 32, 4, 4)).shape[1]

    class Taking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.fc = stage(3, 32), stage(width, 32), nn.Linear(32, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(self.second(taken(self.first(images))).mean((2, 3)))

    network, images = plant_dead_channels(lively(Taking())), torch.rand(16, 3, SIDE, SIDE)
    pruned = prune(trace(network, images[:1]), images, ratio=0.125, criterion="l1")
    removed = {name: {*range(32)} - {*kept} for name, kept in pruned.kept.items()}
    assert removed["second.0"] == {0, 8, 16, 24}
    assert removed["first.0"] <= {0, 8, 16, 24}
    assert len(removed["first.0"]) >= 3
    before, after = network(images), pruned.network(images)
    assert (before - after).abs().max() < 1e-3 * before.std()


@pytest.mark.parametrize("silent", [[3], [3, 5, 13], [1, 2, 3, 4, 5, 6, 7]])
def test_no_more_than_was_asked_for_goes_where_more_is_silent(silent: list[int]) -> None:
    network, images = plant_dead_channels(lively(Network(BETWEEN["nothing"]))), torch.rand(8, 3, SIDE, SIDE)
    for layer in (network.first, network.second):
        layer[1].bias.data[silent] = -100.0  # on these images
    pruned = prune(trace(network, images[:1]), images, ratio=0.125)
    assert {name: {*range(16)} - {*kept} for name, kept in pruned.kept.items() if name.endswith("0")} == {
        "first.0": {0, 8},
        "second.0": {0, 8},
    }


READ = ("flatten", "flatten places first", "a width that is written", "mean and deviation", "squeeze")


@pytest.mark.parametrize("between", ["shared", "nothing", *MOVED, *(f"head {name}" for name in READ)])
def test_dead_channels_go_without_a_trace(between: str) -> None:
    kind, _, head = between.partition("head ")
    network = plant_dead_channels(lively(Shared() if between == "shared" else dead(kind or "nothing", head or None)))
    images = torch.rand(16, 3, SIDE, SIDE)
    traced = trace(network, images[:1])
    pruned = prune(traced, images, ratio=0.125, criterion="l1")
    assert pruned.share == (0.0625 if between in KEEPS_FIRST else 0.125)
    before, after = network(images), pruned.network(images)
    assert (before - after).abs().max() < 1e-3 * before.std()


def test_random_scores_leave_nothing_to_prove() -> None:
    noisy = Network(lambda net, maps: maps + torch.randn_like(maps))
    traced = trace(lively(noisy), torch.rand(1, 3, SIDE, SIDE))
    assert prune(traced, torch.rand(4, 3, SIDE, SIDE)).proof is None


def test_the_proof_sees_a_wrong_cut() -> None:
    images = torch.rand(3, 3, SIDE, SIDE)
    traced = trace(lively(Network(BETWEEN["nothing"])), images[:1])
    coupling = Coupling(traced, images[:1])
    pruned = coupling.cut([(coupling.groups[0], [0, 5])])
    wrong = copy.deepcopy(pruned.network)
    wrong.get_submodule("second.0").weight.data = wrong.get_submodule("second.0").weight.data.roll(1, 1)
    assert difference(traced, wrong, coupling.labelling, pruned.gone, images) > 0.01


def test_labels_that_change_along_one_axis() -> None:
    labels = spread(torch.tensor([3, 0, 7]), 1, (1, 3, 4, 4))
    assert (varying(labels), compressed(labels).shape, labels.stride(2)) == ([1], (1, 3, 1, 1), 0)
    assert along(labels, 1).tolist() == [3, 0, 7]
    assert along(labels, 2).tolist() == [0, 0, 0, 0], "they do not change along that axis alone"


def test_units_that_are_linked_go_together_and_stay_together() -> None:
    units = Units()
    first, second = units.fresh(3, is_made=True), units.fresh(3, is_made=True)
    units.link(first, second.flip(0))
    assert units.roots().tolist() == [0, 1, 2, 3, 3, 2, 1]
    units.fix(second[:1])
    assert units.roots().tolist() == [0, 1, 2, 0, 0, 2, 1]
    units.link(first, torch.tensor([0, 9, 9])[:3].clamp(max=0))
    assert units.roots().tolist() == [0] * 7


TIED: dict[str, tuple[Forward, str]] = {
    "groups": (lambda net, maps: F.group_norm(maps, 4), "its channels go 4 at a time (first_0)"),
    "each with the next": (lambda net, maps: maps * maps.roll(1, 1), "its channels go 16 at a time (first_0)"),
    "a shift": (
        lambda net, maps: maps + F.pad(maps, (0, 0, 0, 0, 1, -1)),
        "others that stay hold its channels (first_0)",
    ),
}


@pytest.mark.parametrize("tie", list(TIED))
def test_why_less_goes_than_was_asked_for_is_told(tie: str) -> None:
    between, why = TIED[tie]
    images = torch.rand(4, 3, SIDE, SIDE)
    pruned = prune(trace(lively(Network(between)), images[:1]), images, ratio=0.125, criterion="l1")
    assert "first.0" not in pruned.kept
    assert pruned.why_less == why


def test_channels_that_go_in_small_numbers_need_no_reason() -> None:
    images = torch.rand(4, 3, SIDE, SIDE)
    traced = trace(lively(Network(BETWEEN["gate"], width=32)), images[:1])
    assert prune(traced, images, ratio=0.125, criterion="l1").stays == {}
