"""Pruning and what it gives back."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.trace import trace
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.pruning.prune import prune
from iqa_armor.pruning.widths import Rounding
from iqa_armor.surgery.edits import splice
from iqa_armor.surgery.stages import choose


def images(count: int = 8, size: int = 64) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(40, 20, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, 1),
    )


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_a_tenth_of_the_channels_goes(name: str) -> None:
    network = torchvision.models.get_model(name, weights=None, num_classes=1)
    pruned = prune(trace(network, images(1)), images(2))
    assert pruned.share == pytest.approx(0.10, abs=0.015)
    assert pruned.share == 1 - pruned.channels[1] / pruned.channels[0]
    assert pruned.network(images(2)).reshape(2).isfinite().all()


def test_rounding_is_the_coarsest_that_keeps_the_share() -> None:
    pruned = prune(trace(small_network(), images(1)), images(4))
    # 40 → 32 or 36 and 20 → 16 or 18: multiples of 16, 8 and 4 remove 20 % of one layer, only 1 comes near.
    assert pruned.round_to in (1, 4)
    assert pruned.share == pytest.approx(0.10, abs=0.02)


@pytest.mark.parametrize(
    ("multiple", "lift", "width", "kept"),
    [
        (16, 0.0, 1024, 912),
        (16, 0.25, 512, 464),
        (16, 0.25, 64, 48),
        (16, 0.5, 64, 64),
        (16, 0.0, 12, 12),
        (1, 0.5, 12, 11),
        (8, 0.0, 64, 56),
    ],
)
def test_widths_are_rounded(multiple: int, lift: float, width: int, kept: int) -> None:
    assert Rounding(multiple, lift).kept(width, 0.9 * width) == kept


def test_widths_that_a_block_halves_are_rounded_twice_where_that_is_cheap() -> None:
    rounding = Rounding(16, 0.25, frozenset({1024, 96}))
    assert rounding.kept(1024, 0.9 * 1024) == 896
    assert rounding.kept(96, 0.9 * 96) == 80  # 64 would be a third less


def test_no_rounding_takes_much_more_than_its_share_from_a_narrow_layer() -> None:
    # Rounded down to sixteens the whole would lose 11 %, but the first layer half of its channels.
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 512, 3), nn.Conv2d(512, 1024, 3), nn.Conv2d(1024, 1, 1))
    pruned = prune(trace(network, images(1, 16)), images(2, 16))
    assert pruned.network.get_submodule("0").out_channels >= 24
    assert pruned.share == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize(("groups", "kept"), [(2, 112), (4, 112), (16, 112), (32, 128)])
def test_width_of_a_grouped_layer_is_a_multiple_of_its_groups_too(groups: int, kept: int) -> None:
    assert Rounding(16, 0.5).kept(128, 0.9 * 128, groups) == kept
    network = nn.Sequential(
        nn.Conv2d(3, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, groups=groups), nn.ReLU(), nn.Conv2d(128, 64, 1),
        nn.Flatten(), nn.Linear(64 * 36, 1),
    )  # fmt: skip
    pruned = prune(trace(network, images(1, 8)), images(2, 8)).network
    assert pruned.get_submodule("2").groups == groups
    assert pruned.get_submodule("2").out_channels % groups == 0
    assert pruned(images(2, 8)).isfinite().all()


def test_kept_channels_are_those_whose_weights_stay() -> None:
    network = torchvision.models.resnet18(weights=None, num_classes=1)
    traced = trace(network, images(1))
    pruned = prune(traced, images(2))
    before, after = traced.state_dict(), pruned.network.state_dict()
    for name, layer in pruned.network.named_modules():
        if isinstance(layer, nn.Conv2d):
            kept = pruned.kept.get(name, list(range(layer.out_channels)))
            assert after[f"{name}.weight"].shape[0] == len(kept)
            source = before[f"{name}.weight"][kept]
            planes, left = (each.flatten(0, 1).numpy() for each in (source, after[f"{name}.weight"]))
            assert {plane.tobytes() for plane in left} <= {plane.tobytes() for plane in planes}


def test_kept_channels_are_stated_compactly_where_some_went() -> None:
    network = small_network()
    with torch.no_grad():
        network[0].weight[[3, 4, 9, 39]] *= 1e-3
    pruned = prune(trace(network, images(1)), images(2), ratio=0.1, criterion="l2")
    assert pruned.kept["0"] == [i for i in range(40) if i not in (3, 4, 9, 39)]
    stated = {tuple(each["layers"]): each for each in pruned.facts()["kept"]}  # type: ignore[attr-defined]
    assert stated[("0",)] == {"layers": ["0"], "of": 40, "channels": "0-2,5-8,10-38"}
    assert prune(trace(network, images(1)), images(2), ratio=0).facts()["kept"] == []


def test_coupled_layers_are_stated_together() -> None:
    network = torchvision.models.resnet18(weights=None, num_classes=1)
    pruned = prune(trace(network, images(1)), images(2))
    layers = [each["layers"] for each in pruned.facts()["kept"]]  # type: ignore[attr-defined]
    assert any({"layer2.0.conv2", "layer2.1.conv2", "layer2.0.downsample.0"} <= set(names) for names in layers)


def test_the_halved_tensor_of_a_resnet_is_a_multiple_of_32() -> None:
    network = torchvision.models.resnet18(weights=None, num_classes=1)
    pruned = prune(trace(network, images(1)), images(2), halved=[256])
    widths = {m.out_channels for m in pruned.network.modules() if isinstance(m, nn.Conv2d) and m.out_channels < 256}
    assert 224 in widths
    assert all(width % 16 == 0 for width in widths)


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_planted_useless_channel_goes_first(criterion: str) -> None:
    network = small_network()
    with torch.no_grad():
        network[0].weight[7] *= 1e-4
        network[2].weight[:, 7] *= 1e-4
    traced = trace(network, images(1))
    pruned = prune(traced, images(4), ratio=1 / 40, criterion=criterion)
    kept = pruned.network.get_submodule("0").weight
    rest = torch.cat([network[0].weight[:7], network[0].weight[8:]])
    torch.testing.assert_close(kept, rest)


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_a_group_of_dead_channels_alone_is_ranked(criterion: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    )
    with torch.no_grad():
        for values in (network[0].weight, network[0].bias, network[1].weight):
            values.zero_()
    assert prune(trace(network, images(1)), images(4), ratio=0.25, criterion=criterion).share > 0


def test_mean_of_removed_channels_moves_into_biases() -> None:
    network = small_network()
    with torch.no_grad():
        network[0].weight[7] = 0  # a channel that is constantly 2: useless weights, useful mean
        network[0].bias[7] = 2.0
        network[2].weight[:, 7] *= 0.5
    traced = trace(network, images(1))
    pruned = prune(traced, images(8), ratio=1 / 40)
    before, after = traced(images(8)), pruned.network(images(8))
    assert abs(float(before.mean() - after.mean())) < 1e-4
    assert float((before - after).abs().max()) < 0.3 * float(before.std()) + 0.02


def test_batch_norm_statistics_follow_the_pruned_channels() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None, num_classes=1)
    network.train()
    with torch.no_grad():
        for _ in range(5):
            network(images(8) * 2 - 1)
    traced = trace(network, images(1))
    pruned = prune(traced, images(8) * 2 - 1)
    with torch.no_grad():
        before, after = traced(images(8) * 2 - 1), pruned.network(images(8) * 2 - 1)
    spread = float(before.std())
    assert abs(float(before.mean() - after.mean())) < 2 * spread


def test_pruning_leaves_the_traced_network_alone() -> None:
    traced = trace(small_network(), images(1))
    before = traced(images())
    prune(traced, images(4))
    torch.testing.assert_close(traced(images()), before, rtol=0, atol=0)


def test_two_prunings_in_a_row_do_not_share_state() -> None:
    first = prune(trace(small_network(), images(1)), images(4))
    prune(trace(torchvision.models.shufflenet_v2_x0_5(weights=None).conv1, images(1)), images(2), ratio=0.2)
    again = prune(trace(small_network(), images(1)), images(4))
    assert first.channels == again.channels
    torch.testing.assert_close(first.network(images()), again.network(images()))


def test_layer_scale_of_convnext_loses_the_channels_of_its_unit() -> None:
    setting = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)]
    network = torchvision.models.ConvNeXt(setting, num_classes=1).eval()
    scales = [(name, value) for name, value in network.named_parameters() if name.endswith("layer_scale")]
    for name, scale in scales:  # marks of the channels, borne by the depthwise convolution of the same unit too
        marks = torch.rand(len(scale))
        scale.data.copy_(marks.view_as(scale))
        network.get_submodule(name.rpartition(".")[0]).block[0].weight.data.copy_(marks.view(-1, 1, 1, 1))
    pruned = prune(trace(network, images(1)), images(4), ratio=0.25).network
    state = pruned.state_dict()
    for name, scale in scales:
        kept = state[name].flatten()
        assert len(kept) < len(scale)
        assert torch.equal(kept, state[f"{name.rpartition('.')[0]}.block.0.weight"][:, 0, 0, 0])


def test_score_head_made_of_a_convolution_keeps_its_output() -> None:
    network = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    pruned = prune(trace(network, images(1)), images(2))
    assert pruned.network(images(2)).shape == (2, 10)


def test_placeholder_survives_with_the_pruned_width() -> None:
    traced = trace(small_network(), images(1))
    name = splice(traced, choose(traced, "last")[0], nn.Identity())
    pruned = prune(traced, images(4), ratio=0.2)
    seen = []
    pruned.network.get_submodule(name).register_forward_hook(lambda m, i, o: seen.append(o.shape[1]))
    pruned.network(images(1))
    assert seen == [32]


def test_network_that_holds_a_block_is_refused() -> None:
    traced = trace(nn.Sequential(nn.Conv2d(3, 8, 3), RobustBlock(8), nn.AdaptiveAvgPool2d(1)), images(1))
    with pytest.raises(SurgeryError, match="RobustBlock"):
        prune(traced, images(2))


def test_width_that_is_written_in_a_head_is_written_anew() -> None:
    class Hard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 20, 3, 8)
            self.head = nn.Linear(20, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).view(-1, 20, 64).mean(2))

    pruned = prune(trace(Hard(), images(1)), images(2))
    assert pruned.network.head.in_features == pruned.network.body.out_channels == 18
    assert pruned.network(images(3)).shape == (3, 1)


@pytest.mark.parametrize("ratio", [1.0, -0.1])
def test_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        prune(trace(small_network(), images(1)), images(2), ratio=ratio)


class Bilinear(nn.Module):
    """Two branches whose channels are multiplied pair by pair."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 20, 3), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 12, 3), nn.ReLU())
        self.head = nn.Linear(20 * 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        products = torch.bmm(self.left(x).flatten(2), self.right(x).flatten(2).transpose(1, 2))
        return self.head(products.flatten(1))


def test_layers_that_a_product_of_matrices_mixes_keep_their_width() -> None:
    pruned = prune(trace(Bilinear(), images(1, 16)), images(2, 16)).network
    widths = [module.out_channels for module in pruned.modules() if isinstance(module, nn.Conv2d)]
    assert widths[1::2] == [20, 12]
    assert max(widths[::2]) < 40


class Tokens(nn.Module):
    """A linear layer on every place of a map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.Conv2d(3, 40, 3)
        self.linear = nn.Linear(40, 24)
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.linear(self.maps(x).relu().flatten(2).transpose(1, 2))
        return self.head(tokens.mean(1))


def test_mean_of_removed_channels_moves_into_the_biases_of_linear_layers_on_tokens() -> None:
    network, calibration = Tokens(), images(4, 16)
    pruned = prune(trace(network, calibration[:1]), calibration).network
    assert pruned.get_submodule("maps").weight.shape[0] < 40
    with torch.no_grad():
        # Behind the linear layer all is linear, so equal means give equal scores on average.
        torch.testing.assert_close(pruned(calibration).mean(), network(calibration).mean(), atol=1e-5, rtol=0)
