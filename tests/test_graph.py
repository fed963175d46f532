"""The graph room: tracing, running, failing, walking, recognising."""

from __future__ import annotations

import sys
import threading
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torchvision.transforms.functional import center_crop, resize

from iqa_armor.artifact.storage import load_artifact, save_artifact
from iqa_armor.errors import SurgeryError
from iqa_armor.graph.calls import argument, arguments, is_convolution
from iqa_armor.graph.interpret import NodeFailure, interpret, record_sizes, size_of
from iqa_armor.graph.trace import evaluating, trace, trace_shared
from iqa_armor.graph.walk import Dominators, ancestors, descendants, nearest
from iqa_armor.models.base import Preprocessing, QualityModel


def images(side: int = 8) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Layers for the forward passes below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 1)
        self.wide, self.other = nn.Conv2d(5, 4, 3), nn.BatchNorm1d(7)


class WrongLinear(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


class WrongChannels(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x)


class WrongView(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(-1, 7)


class WrongCat(Network):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], 1)


class WrongNorm(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.conv(x).mean((2, 3)))


class WrongNormRank(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mean((2, 3)))


class WrongAddition(Network):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class WrongProduct(Network):
    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x.flatten(2), x.flatten(2))


class WrongIndex(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))[:, 9]


class WrongDimension(Network):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).softmax(5)


class WrongKernel(Network):
    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(x, 50)


class WrongAssertion(Network):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[1] == 4, "four channels are needed")
        return self.conv(x)


class WrongKey(Network):
    def forward(self, x: Tensor) -> Tensor:
        return {"one": x}["two"]


class OwnRaise(Network):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("this network is not finished")


class WrongName(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + undefined  # type: ignore[name-defined]  # noqa: F821


class Leaf(nn.Module):
    is_traced_whole = True

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 9:
            raise RuntimeError("maps must have nine columns")
        return x


class RaisingLeaf(Network):
    def __init__(self) -> None:
        super().__init__()
        self.leaf = Leaf()

    def forward(self, x: Tensor) -> Tensor:
        return self.leaf(x)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (WrongLinear, r"layer 'head' \(Linear\): mat1 and mat2 shapes cannot be multiplied \(2x144 and 4x1\)"),
        (WrongChannels, r"layer 'wide' \(Conv2d\): .*to have 5 channels, but got 3 channels"),
        (WrongView, r"view \(node 'view'.*\): shape '\[-1, 7\]' is invalid"),
        (WrongCat, r"cat \(node 'cat'.*\): Sizes of tensors must match"),
        (WrongNorm, r"layer 'other' \(BatchNorm1d\): running_mean should contain 4 elements not 7"),
        (WrongNormRank, r"layer 'norm' \(BatchNorm2d\): expected 4D input \(got 2D input\)"),
        (WrongAddition, r"add \(node 'add'.*\): The size of tensor a \(8\) must match"),
        (WrongProduct, r"bmm \(node 'bmm'.*\): Expected size"),
        (WrongIndex, r"getitem \(node 'getitem'.*\): IndexError: index 9 is out of bounds"),
        (WrongDimension, r"softmax \(node 'softmax'.*\): IndexError: Dimension out of range"),
        (WrongKernel, r".*[Oo]utput size is too small"),
        (WrongAssertion, r"_assert \(node .*\): four channels are needed"),
        (WrongKey, r"WrongKey cannot be traced: KeyError: 'two'"),
        (OwnRaise, r"OwnRaise cannot be traced: this network is not finished"),
        (WrongName, r"WrongName cannot be traced: NameError: name 'undefined' is not defined"),
        (RaisingLeaf, r"layer 'leaf' \(Leaf\): maps must have nine columns"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_failure_names_cause_layer_and_line(
    kind: type[nn.Module], cause: str, inside: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    network = nn.Sequential(kind()) if inside else kind()
    cause = cause.replace("layer '", "layer '0." if inside else "layer '")
    cause = f"Sequential{cause[cause.index(' cannot') :]}" if inside and "cannot be traced" in cause else cause
    with pytest.raises(SurgeryError, match=cause) as caught:
        trace(network.eval(), images())
    text = str(caught.value)
    assert "test_graph.py:" in text
    assert "tlparse" not in text
    assert "Traceback" not in text
    assert capfd.readouterr() == ("", "")


def test_failure_on_another_size_names_layer_cause_and_way_out(capfd: pytest.CaptureFixture[str]) -> None:
    traced = trace(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 1)), images())
    says = r"input of \(2, 3, 9, 9\) at layer '2' .* cannot be multiplied.*; give .* --input-size"
    with pytest.raises(SurgeryError, match=says):
        record_sizes(traced, images(9))
    assert capfd.readouterr() == ("", "")


def test_line_of_source_outlives_a_second_trace() -> None:
    class Flat(Network):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).flatten(1)[:, :144].view(-1, 144)

    again = trace(trace(Flat(), images()), images())
    with pytest.raises(SurgeryError, match=r"test_graph\.py:\d+: return self\.conv\(x\)\.flatten"):
        record_sizes(again, images(6))


class Branches(Network):
    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(x))
        scale = maps.shape[1]
        side = maps.relu().mean((2, 3))
        return self.head(side + maps.amax((2, 3)) / scale)


def test_layer_that_cannot_be_copied_is_refused() -> None:
    network = Branches()
    network.conv.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(SurgeryError, match="cannot be copied"):
        trace(network, images())


def test_what_the_graph_does_not_use_need_not_be_copied() -> None:
    network = Branches()
    network.kept = network.conv(images())  # type: ignore[assignment]  # no leaf of autograd
    traced = trace(network, images())
    assert not hasattr(traced, "kept")


def test_interpreter_gives_what_the_network_gives_and_every_value_on_the_way() -> None:
    network = Branches().eval()
    traced = trace_shared(network, images())
    with torch.no_grad():
        values = dict(interpret(traced, images()))
        assert torch.equal(values[traced.graph.output_node()], network(images()))
    assert all(tuple(value.shape) == size_of(node) for node, value in values.items() if isinstance(value, Tensor))
    assert size_of(next(node for node in traced.graph.nodes if node.name == "getattr_1")) is None


def test_interpreter_takes_defaults_and_asks_for_inputs_that_have_none() -> None:
    class Optional(nn.Module):
        def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
            return x * scale

    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * y

    *_, (_, value) = interpret(fx.symbolic_trace(Optional()), images())
    assert torch.equal(value, images() * 2)
    with pytest.raises(NodeFailure, match="further input 'y'"):
        list(interpret(fx.symbolic_trace(Two()), images()))


def test_walks_agree_with_the_graph() -> None:
    traced = trace(Branches(), images())
    nodes = {node.name: node for node in traced.graph.nodes}
    for node in traced.graph.nodes:
        assert all(node in descendants(source) for source in ancestors(node))
    assert [node.name for node in nearest(nodes["add"], lambda each: each.name in ("norm", "mean"))] in (
        ["mean", "norm"],
        ["norm", "mean"],
    )
    dominators = Dominators(traced.graph)
    assert [node.name for node in dominators.of(nodes["output"])] == ["x", "conv", "norm", "add", "head", "output"]
    assert nodes["getattr_1"] not in dominators
    assert nodes["getattr_1"] in Dominators(traced.graph, through_sizes=True)


@pytest.mark.parametrize("seed", range(5))
def test_dominators_are_what_no_way_avoids(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    graph = fx.Graph()
    nodes = [graph.placeholder("x")]
    for _ in range(20):
        chosen = [nodes[int(torch.randint(len(nodes), (1,), generator=generator))] for _ in range(2)]
        nodes.append(graph.call_function(torch.add, tuple(chosen)))
    graph.output(nodes[-1])
    dominators = Dominators(graph)
    for end in nodes:
        found = dominators.of(end)
        for node in nodes:
            avoided = ancestors(end, stops=lambda each, node=node: each is node)
            assert (node in found) == (node is end or (node in avoided and nodes[0] not in avoided) or node is nodes[0])
        assert all(nodes.index(one) < nodes.index(other) for one, other in pairwise(found))


WEIGHTS = {1: (4, 2, 3), 2: (4, 2, 3, 3), 3: (4, 2, 3, 3, 3)}
GIVEN = {"bias": None, "stride": 2, "padding": 1, "output_padding": 1, "dilation": 3, "groups": 2}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("positional", range(2, 9))
def test_every_argument_of_a_functional_convolution_is_read(axes: int, transposed: bool, positional: int) -> None:
    names = ["bias", "stride", "padding", "dilation", "groups"]
    if transposed:
        names = ["bias", "stride", "padding", "output_padding", "groups", "dilation"]
    function = getattr(functional, f"conv{'_transpose' if transposed else ''}{axes}d")
    given: dict[str, Any] = {name: GIVEN[name] for name in names}
    ordered, named = list(given.values())[: positional - 2], dict(list(given.items())[positional - 2 :])

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(WEIGHTS[axes]))

        def forward(self, x: Tensor) -> Tensor:
            return function(x, self.weight, *ordered, **named)

    graph = fx.symbolic_trace(Call())
    node = next(node for node in graph.graph.nodes if node.target is function)
    assert {name: value for name, value in arguments(node).items() if name not in ("input", "weight")} == given
    assert argument(graph, node, "dilation") == 3
    assert is_convolution(graph, node) == (axes == 2)
    assert function(torch.rand(2, 4, *[9] * axes), Call().weight, *ordered, **named) is not None


DROPPING = {
    "dropout": lambda x, on: functional.dropout(x, 0.5, training=on),
    "positional": lambda x, on: functional.dropout(x, 0.5, on),
    "dropout1d": lambda x, on: functional.dropout1d(x.flatten(2), 0.5, training=on),
    "dropout2d": lambda x, on: functional.dropout2d(x, 0.5, training=on),
    "dropout3d": lambda x, on: functional.dropout3d(x[:, :, None], 0.5, training=on),
    "alpha": lambda x, on: functional.alpha_dropout(x, 0.5, training=on),
    "feature alpha": lambda x, on: functional.feature_alpha_dropout(x, 0.5, training=on),
    "builtin": lambda x, on: torch.dropout(x, 0.5, on),
    "builtin by name": lambda x, on: torch.dropout(x, p=0.5, train=on),
    "builtin features": lambda x, on: torch.feature_dropout(x, 0.5, on),
}


class Dropping(nn.Module):
    def __init__(self, name: str, on: bool | None) -> None:
        super().__init__()
        self.name, self.on = name, on

    def forward(self, x: Tensor) -> Tensor:
        return DROPPING[self.name](x, self.training if self.on is None else self.on)


def is_random(network: nn.Module) -> bool:
    torch.manual_seed(0)
    first = network(images())
    return not torch.equal(first, network(images()))


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_that_is_on_in_eval_mode_stays_on(name: str) -> None:
    traced = trace(Dropping(name, True), images())
    assert is_random(traced.eval())
    assert is_random(trace(traced, images()).eval())


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_that_follows_the_mode_follows_it(name: str) -> None:
    traced = trace(Dropping(name, None), images())
    assert not is_random(traced.eval())
    assert is_random(traced.train())


def test_dropout_without_a_mode_is_on() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(x)

    assert is_random(trace(Plain().eval(), images()))


class Forced(nn.Module):
    """A layer that stays in training mode, by an own `train` or in the forward pass."""

    def __init__(self, layer: nn.Module, *, in_forward: bool) -> None:
        super().__init__()
        self.layer, self.in_forward = layer, in_forward

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        if not self.in_forward:
            self.layer.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.in_forward:
            self.layer.train()
        return self.layer(x)


@pytest.mark.parametrize("in_forward", [False, True])
@pytest.mark.parametrize("layer", [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()])
def test_dropout_layer_that_is_forced_on_stays_on(layer: nn.Module, in_forward: bool) -> None:
    traced = trace(Forced(layer, in_forward=in_forward).eval(), images())
    assert is_random(traced.eval())
    assert is_random(traced.train())


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.RReLU(), nn.InstanceNorm2d(3, track_running_stats=True)])
def test_other_layer_that_is_forced_into_training_mode_is_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(SurgeryError, match=rf"layer 'layer' \({type(layer).__name__}\) stays in training mode"):
        trace(Forced(layer, in_forward=False), images())


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3, track_running_stats=False)])
def test_layer_without_modes_may_be_in_either(layer: nn.Module) -> None:
    assert not is_random(trace(Forced(layer, in_forward=False), images()))


def test_dropout_that_is_on_is_on_in_a_stored_model(tmp_path: Any) -> None:
    network = nn.Sequential(Forced(nn.Dropout(), in_forward=True), nn.Flatten(), nn.Linear(192, 1))
    model = QualityModel(network, Preprocessing(size=(8, 8)), name="forced")
    save_artifact(model, tmp_path / "model.safetensors", recipe={}, provenance={})
    loaded, images = load_artifact(tmp_path / "model.safetensors"), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        kept = network[2](images.flatten(1)).flatten()  # nothing dropped
        assert not torch.allclose(loaded.network(images).flatten(), kept, atol=1e-3)


def test_modes_come_back_and_forced_ones_are_respected() -> None:
    network = nn.Sequential(Forced(nn.Dropout(), in_forward=False), nn.BatchNorm2d(3).train(), nn.ReLU().eval())
    before = [module.training for module in network.modules()]
    with evaluating(network):
        assert not network[1].training
        assert network[0].layer.training
    assert [module.training for module in network.modules()] == before


TABLE = torch.rand(3)
PLAIN: dict[str, Any] = {
    "zeros": lambda x: torch.zeros(x.shape[0], 3, *x.shape[2:]),
    "zeros of one number": lambda x: torch.zeros(x.shape[0])[:, None, None, None],
    "zeros of a shape": lambda x: torch.zeros(x.shape),
    "ones with a kind": lambda x: torch.ones(*x.shape, dtype=x.dtype, device=x.device),
    "ones of a list": lambda x: torch.ones([x.shape[0], 3, 1, 1]),
    "new zeros": lambda x: TABLE.new_zeros(x.shape[0], 1, 1, 1),
    "expand": lambda x: TABLE.view(1, -1, 1, 1).expand(x.shape[0], -1, -1, x.shape[3]),
    "expand to a list": lambda x: TABLE.view(1, -1, 1, 1).expand([x.shape[0], -1, 1, 1]),
    "a tensor of numbers": lambda x: torch.tensor([0, x.shape[2] // 100, 1])[:, None, None],
    "as many of one": lambda x: torch.stack([TABLE.sum() * x.mean() * 0] * x.shape[0])[:, None, None, None],
    "repeat": lambda x: TABLE.view(1, -1, 1, 1).repeat(x.shape[0], 1, 1, 1),
}


class Adding(nn.Module):
    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(x)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_tensors_take_sizes_of_the_graph(name: str) -> None:
    network = Adding(PLAIN[name])
    for _ in range(2):  # what torch keeps of the first trace does not change the second
        traced = trace(network, images()[:1])
        for count, side in ((1, 8), (3, 12)):
            given = torch.rand(count, 3, side, side)
            assert torch.equal(traced(given), network(given))
        assert ("fixed_size" in traced.meta) == (name == "a tensor of numbers")
    assert "zeros" not in vars(Tensor)
    assert torch.zeros(2).tolist() == [0, 0]


class Counting(nn.Module):
    """Takes the number of images plainly, and asks for a size of what it makes with it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(int(x.shape[0]), 3, -1)
        return rows.mean(2) if rows.shape[1] == 3 else rows


def test_sizes_that_are_asked_for_behind_the_number_of_images_stay_free() -> None:
    traced = trace(Counting(), images()[:1])
    assert "fixed_size" not in traced.meta
    given = torch.rand(3, 3, 12, 16)
    assert torch.equal(traced(given), Counting()(given))


@pytest.mark.parametrize("table", [lambda x: torch.eye(x.shape[0]).sum(), lambda x: torch.randperm(x.shape[0]).sum()])
def test_a_constant_for_the_number_of_images_is_refused(table: Any) -> None:
    with pytest.raises(SurgeryError, match="what it does depends on how many images come together"):
        trace(Adding(table), images()[:1])


class Kinds(nn.Module):
    """Asks what kind of value it has, and calls a function that does."""

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not isinstance(x.shape, tuple) or not isinstance(x.shape[0], int):
            return self.nowhere
        return center_crop(resize(x, [12, 16], antialias=True), [8, 8])


def test_values_of_the_graph_are_of_the_kind_that_they_are() -> None:
    traced = trace(Kinds(), images()[:1])
    for count in (1, 3):
        given = torch.rand(count, 3, 8, 8)
        assert torch.equal(traced(given), Kinds()(given))
    assert isinstance(Tensor, type)
    assert "isinstance" not in globals()


def test_what_follows_the_number_of_images_is_refused_with_its_place() -> None:
    class Each(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([image[None] * place for place, image in enumerate(x)])

    with pytest.raises(SurgeryError, match=r"how many images come together \(test_graph.py:\d+") as caught:
        trace(nn.Sequential(nn.Conv2d(3, 3, 1), Each()), images()[:1])
    assert caught.value.place == "1"


@fx.wrap
def grid(sizes: tuple[int, int], step: float = 1.0) -> Tensor:
    return torch.stack(torch.meshgrid(*map(torch.arange, sizes), indexing="ij")).sum(0)[None, None] * step


def test_what_another_packages_function_makes_of_sizes_alone_is_a_constant(tmp_path: Any) -> None:
    traced = trace(nn.Sequential(Adding(lambda x: grid(x.shape[-2:], 0.5)), nn.Flatten(), nn.Linear(192, 1)), images())
    assert traced.meta["fixed_size"] == (8, 8)
    assert grid not in {node.target for node in traced.graph.nodes}
    model = QualityModel(traced, Preprocessing(size=(8, 8)), name="grid")
    save_artifact(model, tmp_path / "model.safetensors", recipe={}, provenance={})
    assert torch.equal(load_artifact(tmp_path / "model.safetensors").network(images()), traced(images()))


class Beside(nn.Module):
    """Computes a loss beside the score, as TReS does, by the body that the score comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.fc, self.consistency = nn.Linear(4, 1), nn.L1Loss()

    def forward(self, x: Tensor) -> Tensor:
        maps, mirrored = self.body(x), self.body(x.flip(3))
        mirrored += maps.flip(3)
        self.loss = self.consistency(maps, mirrored.relu_().detach())
        return self.fc(maps.mean((2, 3)))


def test_what_no_score_depends_on_is_not_computed() -> None:
    network = Beside().eval()
    traced = trace(network, images()[:1])
    assert torch.equal(traced(images()), network(images()))
    assert [name for name, _ in traced.named_children()] == ["body", "fc"]
    assert sum(node.op == "call_module" for node in traced.graph.nodes) == 4


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.relu_(),
        lambda x: nn.ReLU(inplace=True)(x),
        lambda x: x[:, 0].zero_(),
        lambda x: x.flatten(1)[:, :2].mul_(3).add_(1),
        lambda x: functional.relu(x.mT, inplace=True),
        lambda x: nn.Dropout(0.0, inplace=True)(nn.Identity()(x).sigmoid_()),
    ],
)
def test_what_is_written_for_others_is_kept(write: Any) -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            maps = x * 2 - 1
            write(maps)
            return maps.mean((1, 2, 3))

    assert torch.equal(trace(Writing(), images()[:1])(images()), Writing()(images()))


def test_other_threads_see_nothing_of_a_trace() -> None:
    class Listed(list[int]):
        """What a caller may give in place of a list."""

    seen: list[object] = []
    layer = nn.Conv2d(3, 4, 3)

    def ask() -> None:
        given = Listed([2, 3])
        seen.extend([isinstance(given, Listed), torch.tensor(given).tolist(), tuple(torch.zeros(2).expand(3, 2).shape)])
        seen.extend([type(layer(images())) is Tensor, torch.is_tensor(layer)])

    class Asking(Network):
        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            return self.head(self.conv(x).mean((2, 3)))

    trace(Asking(), images())
    assert seen[:5] == [True, [2, 3], (3, 2), True, False]


class Keeping(nn.Module):
    """Keeps values of a call, as caches do; takes a layer out and puts it back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.seen = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 3), []

    def forward(self, images: Tensor) -> Tensor:
        self.last = maps = self.first(images)
        self.seen.append(maps)
        first = self.first
        del self.first
        self.first = first
        return self.second(maps).mean((1, 2, 3))


@pytest.mark.parametrize("kind", [Keeping, lambda: nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1))])
def test_modules_are_whole_at_any_moment_of_a_trace_and_get_back_what_they_had(kind: Any) -> None:
    network, torn = kind().eval(), []
    before = {module: (dict(vars(module)), list(module._modules)) for module in network.modules()}

    def watch(frame: Any, *_: Any) -> Any:
        if frame.f_code.co_filename.endswith("follow.py"):
            torn.extend(each for each in before if not {"training", "_forward_pre_hooks"} <= vars(each).keys())
        return watch

    sys.settrace(watch)
    try:
        trace(network, torch.rand(1, 3, 8, 8))
    finally:
        sys.settrace(None)
    assert torn == [], "other threads may be calling the network"
    assert {module: (dict(vars(module)), list(module._modules)) for module in network.modules()} == before
    assert getattr(network, "seen", []) == []
