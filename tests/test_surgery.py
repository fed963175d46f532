"""Tracing, cuts and splicing."""

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.convnext import CNBlockConfig

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.interpret import size_of
from iqa_armor.graph.trace import trace
from iqa_armor.surgery.edits import rescale_output, splice
from iqa_armor.surgery.stages import branches, choose
from iqa_armor.surgery.tokens import Lineage


def example(size: int = 96) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A small residual network: stem, a unit at full size, a strided unit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.same = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.stem(images))
        x = functional.relu(x + self.same(x))
        x = functional.dropout(x, 0.3, training=self.training)
        return self.head(self.down(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "node", "channels"),
    [
        ("resnet18", "layer3_1_relu_1", 256),
        ("resnet50", "layer3_5_relu_2", 1024),
        ("mobilenet_v2", "add_7", 96),
        ("vgg16", "features_23", 512),
        ("densenet121", "features_transition3_pool", 512),
    ],
)
def test_last_cut_is_where_the_final_stage_begins(name: str, node: str, channels: int) -> None:
    network = torchvision.models.get_model(name, weights=None, num_classes=1)
    traced = trace(network, example()[:1])
    (found,) = branches(Lineage(traced))
    assert (found.cuts[-1].node, found.cuts[-1].channels) == (node, channels)
    assert [cut.name for cut in choose(traced, "last")] == [node]


def test_mobilenet_cut_is_the_input_of_features_14() -> None:
    traced = trace(torchvision.models.mobilenet_v2(weights=None), example()[:1])
    (cut,) = choose(traced, "last")
    assert [str(user.target) for user in cut.users] == ["features.14.conv.0.0"]


def test_cuts_are_numbered_from_the_input_by_map_size() -> None:
    traced = trace(torchvision.models.resnet50(weights=None), torch.rand(1, 3, 498, 664))
    (found,) = branches(Lineage(traced))
    # Table 1 of the paper names 3 x 498 x 664, 64 x 125 x 166 and 1024 x 32 x 42 among its positions.
    sizes = [(cut.position, cut.channels, *cut.size) for cut in found.cuts]
    assert sizes == [(1, 3, 498, 664), (2, 64, 125, 166), (3, 256, 125, 166), (4, 512, 63, 83), (5, 1024, 32, 42)]


def test_dilated_network_asks_for_a_node() -> None:
    network = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    traced = trace(network, example()[:1])
    with pytest.raises(SurgeryError, match="--position NODE"):
        choose(traced, "last")
    assert [node.name for node in choose(traced, "layer3")] == ["layer3_5_relu_2"]


@pytest.mark.parametrize(
    ("positional", "named", "hides"),
    [
        ((None, 1, 2, 0, 1, 2), {}, True),  # stride, padding, output padding, groups, dilation
        ((None, 1, 1, 0, 2, 1), {}, False),
        ((None, 2, 1, 1, 2), {}, False),
        ((None, 1, 2), {"dilation": 2}, True),
        ((), {"dilation": (1, 1), "groups": 2, "padding": 1}, False),
    ],
)
def test_dilation_of_a_functional_transposed_convolution_is_its_last_argument(
    positional: tuple, named: dict, hides: bool
) -> None:
    groups = named.get("groups", positional[4] if len(positional) > 4 else 1)

    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1)
            self.weight = nn.Parameter(torch.rand(4, 4 // groups, 3, 3))

        def forward(self, images: Tensor) -> Tensor:
            maps = self.second(self.first(images))
            return functional.conv_transpose2d(maps, self.weight, *positional, **named).mean((1, 2, 3))

    traced = trace(Transposed(), example()[:1])
    if hides:
        with pytest.raises(SurgeryError, match="dilated convolution 'conv_transpose2d"):
            choose(traced, "last")
    else:
        assert choose(traced, "last")


class Selective(nn.Module):
    """A residual unit of which one path is dilated, beginning with the stride."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Conv2d(8, 8, 1, 2)
        self.paths = nn.ModuleList([nn.Conv2d(8, 8, 3, 2, pad, pad) for pad in (1, 2)])

    def forward(self, maps: Tensor) -> Tensor:
        return self.short(maps) + sum(path(maps) for path in self.paths)


def test_dilation_in_the_unit_that_begins_a_stage_hides_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), Selective(), nn.Conv2d(8, 1, 3, padding=1))
    assert [node.name for node in choose(trace(network, example()[:1]), "last")] == ["_1"]


class Backbone(nn.Module):
    """Stages with shortcuts, all written in one `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.downs = nn.ModuleList([nn.Conv2d(3 if n == 0 else 8, 8, 3, 2, 1) for n in range(4)])
        self.units = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)])

    def forward(self, images: Tensor) -> Tensor:
        for down, unit in zip(self.downs, self.units, strict=True):
            images = down(images).relu()
            images = images + unit(images)
        return images


def test_a_backbone_is_no_residual_unit() -> None:
    network = nn.Sequential(Backbone(), nn.Flatten(), nn.LazyLinear(1))
    network(example())
    assert [node.name for node in choose(trace(network, example()[:1]), "last")] == ["add_2"]
    whole = nn.Sequential(trace(Backbone(), example()[:1]), *network[1:])  # as torchvision's feature extractors are
    assert [node.name for node in choose(trace(whole, example()[:1]), "last")] == ["add_2"]


def test_last_quarter_of_many_convolutions_on_one_size_is_the_last_stage() -> None:
    units = [layer for _ in range(7) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
    network = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.ReLU(), *units, nn.Flatten())
    assert [node.name for node in choose(trace(network, example()[:1]), "last")] == ["_11"]  # two of eight behind it


@pytest.mark.parametrize("turned", [lambda x: x.permute(0, 2, 3, 1), lambda x: x.movedim(1, -1).relu()])
def test_maps_that_are_turned_for_their_tokens_are_no_cut(turned: Callable[[Tensor], Tensor]) -> None:
    """As in MANIQA: maps of one size, made tokens of by a turn and a reshape, and maps again before a convolution."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 16, 4, 4)
            self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
            self.mixes = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            for conv, mix in zip(self.convs, self.mixes, strict=True):
                n, c, h, w = x.shape
                tokens = mix(turned(x).reshape(n, h * w, c))
                x = conv(tokens.reshape(n, h, w, c).permute(0, 3, 1, 2))
            return x.mean((1, 2, 3))

    traced = trace(Mixed(), example(32))
    (cut,) = choose(traced, "last")
    assert (size_of(cut) or ())[1] == 16
    assert all((size_of(node) or ())[1] in (3, 16) for node in cuts_of(traced)), "no cut has its channels last"


def cuts_of(traced: torch.fx.GraphModule) -> list[torch.fx.Node]:
    names = {cut.node for branch in branches(Lineage(traced)) for cut in branch.cuts}
    return [node for node in traced.graph.nodes if node.name in names]


@pytest.mark.parametrize("moved", [lambda x: x.view(-1, 3, 96, 96), lambda x: x.flip(3), lambda x: (x - 0.5) / 0.2])
def test_last_is_never_the_image_itself(moved: Callable[[Tensor], Tensor]) -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 7)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(moved(images)).amax((1, 2, 3))

    with pytest.raises(SurgeryError, match=r"one stage only.* or leave the block out with --position none"):
        choose(trace(Moved(), example()[:1]), "last")


def test_network_of_one_stage_asks_for_a_node() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten())
    traced = trace(network, example()[:1])
    with pytest.raises(SurgeryError, match="one stage only"):
        choose(traced, "last")
    assert [node.op for node in choose(traced, "1")] == ["placeholder"]


def test_two_branches_get_a_cut_each() -> None:
    class TwoBranches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1))
            self.right = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 7, 3, 2, 1))
            self.head = nn.Linear(13, 1)

        def forward(self, images: Tensor) -> Tensor:
            pooled = [branch(images).mean((2, 3)) for branch in (self.left, self.right)]
            return self.head(torch.cat(pooled, 1))

    traced = trace(TwoBranches(), example())
    assert [node.name for node in choose(traced, "last")] == ["left_1", "right_1"]


@pytest.mark.parametrize(
    ("position", "message"), [("layer9", "no node or module"), ("9", "numbered 1 to 2"), ("head", "no map")]
)
def test_unknown_position_is_refused_by_name(position: str, message: str) -> None:
    with pytest.raises(SurgeryError, match=message):
        choose(trace(Residual(), example()), position)


def test_tracing_keeps_outputs_and_leaves_the_network_alone() -> None:
    network = Residual().train()
    before = copy.deepcopy(network.state_dict())
    traced = trace(network, example())
    network.eval()
    torch.testing.assert_close(traced(example()), network(example()), rtol=0, atol=0)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert set(traced.state_dict()) == set(before)


def test_functional_dropout_drops_again_in_training() -> None:
    traced = trace(Residual(), example())
    assert torch.equal(traced(example()), traced(example()))
    traced.train()
    torch.manual_seed(0)
    assert not torch.equal(traced(example()), traced(example()))


def test_data_of_a_tensor_is_read_as_detached() -> None:
    class Reading(Residual):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * images.data.mean() / images.data.shape[1]

    network, images = Reading().eval(), example().requires_grad_()
    traced = trace(network, example())
    assert all(node.args[1:] != ("data",) for node in traced.graph.nodes)
    for scorer in (network, traced):
        torch.testing.assert_close(scorer(images), network(images))
    gradients = [torch.autograd.grad(scorer(images).sum(), images)[0] for scorer in (network, traced)]
    torch.testing.assert_close(*gradients)


def test_functional_layer_norm_of_own_weights_becomes_a_module_of_the_same_name() -> None:
    network = torchvision.models.ConvNeXt([CNBlockConfig(8, 8, 1), CNBlockConfig(8, None, 1)], num_classes=1).eval()
    traced = trace(network, example())
    assert not [node for node in traced.graph.nodes if node.target is functional.layer_norm]
    assert traced.state_dict().keys() == network.state_dict().keys()
    torch.testing.assert_close(traced(example()), network(example()), rtol=0, atol=0)


def test_layer_norm_in_a_module_with_further_layers_becomes_a_layer_beside_it() -> None:
    class Crowded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(96)), nn.Parameter(torch.rand(96))
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(functional.layer_norm(images, (96,), self.weight, self.bias)).mean((1, 2, 3))

    network = nn.Sequential(Crowded()).eval()
    traced = trace(network, example())
    assert not any(node.target is functional.layer_norm for node in traced.graph.nodes)
    assert isinstance(traced.get_submodule("0.conv"), nn.Conv2d)
    torch.testing.assert_close(traced(example()), network(example()), rtol=0, atol=0)


def test_layer_norm_of_other_weights_stays_a_function() -> None:
    class Fixed(Residual):
        def forward(self, images: Tensor) -> Tensor:
            images = functional.layer_norm(images, (96,))
            return super().forward(functional.layer_norm(images, (96, 96), eps=1e-3))

    network = Fixed().eval()
    traced = trace(network, example())
    assert sum(node.target is functional.layer_norm for node in traced.graph.nodes) == 2
    torch.testing.assert_close(traced(example()), network(example()))


def test_untraceable_network_names_the_line() -> None:
    class Branching(Residual):
        def forward(self, images: Tensor) -> Tensor:
            if images.mean() > 0:
                return super().forward(images)
            return images.mean((1, 2, 3))

    with pytest.raises(SurgeryError, match=r"if images\.mean\(\) > 0"):
        trace(Branching(), example())


def test_network_without_convolutions_is_refused() -> None:
    traced = trace(nn.Sequential(nn.Flatten(), nn.Linear(3 * 96 * 96, 1)), example())
    with pytest.raises(SurgeryError, match="no convolution"):
        branches(Lineage(traced))


def test_wrong_input_size_is_named() -> None:
    with pytest.raises(SurgeryError, match="--input-size"):
        trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), example())


def test_splice_keeps_output_for_identity_block() -> None:
    traced = trace(Residual(), example())
    before = traced(example())
    name = splice(traced, choose(traced, "last")[0], nn.Identity())
    torch.testing.assert_close(traced(example()), before, rtol=0, atol=0)
    assert isinstance(traced.get_submodule(name), nn.Identity)


def test_splice_reroutes_every_reader_but_the_block_itself() -> None:
    traced = trace(Residual(), example())
    (cut,) = choose(traced, "last")
    splice(traced, cut, nn.Identity())
    (block,) = cut.users
    assert block.op == "call_module"
    assert block.args == (cut,)


def test_trunk_taps_leave_side_readers_unprotected() -> None:
    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
            self.head = nn.Linear(8, 1)

        def forward(self, images: Tensor) -> Tensor:
            x = self.first(images)
            return self.head(torch.cat([x.mean((2, 3)), self.last(x).mean((2, 3))], 1))

    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0

    network = Tapped()
    outputs = {}
    for taps in ("all", "trunk"):
        traced = trace(network, example())
        traced.add_submodule("zero", Zero())
        splice(traced, choose(traced, "last")[0], Zero(), taps=taps)  # type: ignore[arg-type]
        outputs[taps] = traced(example())
    last = network.last(torch.zeros(2, 4, 48, 48)).mean((2, 3))
    tapped = network.head(torch.cat([network.first(example()).mean((2, 3)), last], 1))
    torch.testing.assert_close(outputs["trunk"], tapped)
    torch.testing.assert_close(outputs["all"], network.head(torch.cat([torch.zeros(2, 4), last], 1)))


def test_second_block_on_one_cut_is_refused() -> None:
    traced = trace(Residual(), example())
    (cut,) = choose(traced, "last")
    splice(traced, cut, nn.Identity())
    with pytest.raises(SurgeryError, match="already stands"):
        splice(traced, cut, nn.Identity())


def test_sizes_follow_the_example() -> None:
    traced = trace(Residual(), example(40))
    assert size_of(next(node for node in traced.graph.nodes if node.target == "down")) == (2, 16, 20, 20)


@pytest.mark.parametrize("folds", [True, False])
def test_rescaling_changes_scores_by_gain_and_offset(folds: bool) -> None:
    network = Residual() if folds else nn.Sequential(Residual(), nn.Sigmoid())
    traced = trace(network, example())
    before, nodes = traced(example()), len(traced.graph.nodes)
    rescale_output(traced, gain=3.0, offset=-1.0)
    torch.testing.assert_close(traced(example()), 3 * before - 1)
    assert (len(traced.graph.nodes) == nodes) == folds


class Beside(nn.Module):
    """Stages on the image, and beside them other convolutions on what is made of it, each told by a function."""

    def __init__(self, beside: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.beside = beside

    def forward(self, images: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(images.mean(1, keepdim=True)).abs().log1p()
        return self.trunk(images).mean((1, 2, 3)) + self.beside(spectrum).mean((1, 2, 3))


def test_why_there_is_no_last_cut_is_said_of_the_branch_that_has_none() -> None:
    one = Beside(nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU()))
    with pytest.raises(SurgeryError, match="convolutions that lead to 'beside_0' have one stage only"):
        choose(trace(one, example()[:1]), "last")
    deep = Beside(nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1)))
    assert len(choose(trace(deep, example()[:1]), "last")) == 2
