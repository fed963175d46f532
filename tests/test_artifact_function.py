"""A stored graph is a function of one image, and what it takes is bounded before anything is computed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_forgery import FN, METHOD
from conftest import write_images
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from iqa_armor.artifact.checks import FormatError
from iqa_armor.artifact.rehearsal import Account
from iqa_armor.artifact.storage import load_artifact, save_artifact
from iqa_armor.cli import app
from iqa_armor.errors import ModelLoadError
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.models.outputs import COMPANY, DRAWS
from iqa_armor.ortho.block import RobustBlock

Step = tuple[str, str, list[object], dict[str, object]] | tuple[str, str, list[object]]
MEAN: list[Step] = [(METHOD, "flatten", [{"node": -1}, 1]), (METHOD, "mean", [{"node": -1}, 1])]


def stored(path: Path, steps: list[Step], *, size: tuple[int, int] | None = (16, 16), **tensors: Tensor) -> Path:
    """Write a graph: the images, the tensors, the steps; `{"node": -1}` is the step before."""

    def numbered(value: Any, here: int) -> Any:
        if value == {"node": -1}:
            return {"node": here - 1}
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return type(value)(
                {k: numbered(v, here) for k, v in items}
                if isinstance(value, dict)
                else [numbered(v, here) for v in value]
            )
        return value

    nodes = [{"op": "placeholder", "target": "images", "args": [], "kwargs": {}}]
    nodes += [{"op": "get_attr", "target": name, "args": [], "kwargs": {}} for name in tensors]
    for op, target, args, *more in [*steps, ("output", "output", [{"node": -1}])]:
        kwargs = more[0] if more else {}
        given = {"args": numbered(args, len(nodes)), "kwargs": numbered(kwargs, len(nodes))}
        nodes.append({"op": op, "target": target, **given})
    preprocessing = {"interpolation": "bilinear", "antialias": True, "mean": [0, 0, 0], "std": [1, 1, 1]}
    document = {
        **{"format": 1, "needs_source": False, "name": "m", "arch": "", "score_scale": None, "recipe": {}},
        **{"provenance": {}, "preprocessing": {"size": size and list(size), **preprocessing}, "nodes": nodes},
        **{"leaves": {}, "attributes": dict.fromkeys(tensors, "buffer")},
        "tensors": {name: ["F32", list(value.shape)] for name, value in tensors.items()},
    }
    save_file(tensors or {}, path, {"iqa_armor": json.dumps(document)})
    return path


def call(target: str, *args: object, **kwargs: object) -> Step:
    return (FN, target, list(args), kwargs)


STORED = {"node": 1}
STATEFUL: dict[str, list[Step]] = {
    "iadd": [call("operator.iadd", STORED, 1.0)],
    "imul of a view": [call("operator.getitem", STORED, 0), call("operator.imul", {"node": -1}, 1.5)],
    "add_": [(METHOD, "add_", [STORED, 1.0])],
    "relu_": [call("torch.nn.functional.relu_", STORED)],
    "in place by name": [call("torch.nn.functional.hardtanh", STORED, inplace=True)],
    "in place by position": [call("torch.nn.functional.relu", STORED, True)],
    "masked_fill_": [call("operator.gt", STORED, 0), (METHOD, "masked_fill_", [STORED, {"node": -1}, 2.0])],
    "reshaped": [(METHOD, "reshape", [STORED, -1]), (METHOD, "mul_", [{"node": -1}, 2.0])],
    "expanded": [(METHOD, "view", [STORED, 1, 3]), (METHOD, "sigmoid_", [{"node": -1}])],
    "running statistics": [
        call("torch.nn.functional.batch_norm", {"node": 0}, STORED, {"node": 2}, training=True),
        *MEAN,
    ],
    "running statistics of instances": [
        call("torch.nn.functional.instance_norm", {"node": 0}, STORED, {"node": 2}),
        *MEAN,
    ],
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_graph_that_changes_its_tensors_is_refused(name: str, tmp_path: Path) -> None:
    steps = STATEFUL[name]
    if steps[-len(MEAN) :] != MEAN:
        steps = [*steps, (METHOD, "flatten", [{"node": 0}, 1]), *MEAN[1:]]
    path = stored(tmp_path / "m.safetensors", steps, a=torch.ones(3), b=torch.ones(3))
    with pytest.raises(ModelLoadError, match="changes its own stored tensors"):
        load_artifact(path)


def test_a_network_that_counts_its_calls_is_stored_as_it_is(tmp_path: Path) -> None:
    class Counting(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1))
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + self.calls.add_(1)

    path, images = tmp_path / "m.safetensors", torch.rand(1, 3, 16, 16)
    save_artifact(QualityModel(Counting().eval(), Preprocessing(size=(16, 16))), path)
    model = load_artifact(path)
    assert torch.equal(model(images), model(images))


ONE = {"node": 0}
COMPANY_KEPT: dict[str, list[Step]] = {
    "mean of the batch": [(METHOD, "mean", [ONE, 0], {"keepdim": True}), call("operator.add", ONE, {"node": -1})],
    "batch statistics": [
        call("torch.nn.functional.batch_norm", ONE, None, None, training=True),
        call("torch.sin", {"node": -1}),
    ],
    "the first image": [
        call("operator.getitem", ONE, {"slice": [0, 1, None]}),
        call("operator.sub", ONE, {"node": -1}),
    ],
    "turned round": [call("torch.flip", ONE, {"list": [0]})],
    "running sum": [call("torch.cumsum", ONE, 0)],
    "softmax": [call("torch.softmax", ONE, 0)],
    "rolled": [call("torch.roll", ONE, 1, 0)],
    "sorted": [call("torch.sort", ONE, 0), call("operator.getitem", {"node": -1}, 0)],
    "largest of all": [call("torch.max", ONE), call("operator.mul", ONE, {"node": -1})],
    "draws": [call("torch.rand_like", ONE)],
    "drops out": [call("torch.nn.functional.dropout", ONE, 0.5, True)],
}


@pytest.mark.parametrize("name", COMPANY_KEPT)
def test_a_score_depends_on_its_image_only(name: str, tmp_path: Path) -> None:
    model = load_artifact(stored(tmp_path / "m.safetensors", [*COMPANY_KEPT[name], *MEAN]))
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        assert torch.equal(model(images), alone)
        assert torch.equal(model(images.flip(0)), alone.flip(0))


def test_what_keeps_images_apart_gets_them_together(tmp_path: Path) -> None:
    class Usual(nn.Module):
        def __init__(self, **more: nn.Module) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2))
            self.block, self.head = RobustBlock(4), nn.Linear(4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(torch.flatten(functional.adaptive_avg_pool2d(self.block(self.body(images)), 1), 1))

    class Gated(Usual):
        def forward(self, images: Tensor) -> Tensor:
            found = self.body(images)
            return self.head((found * torch.sigmoid(found.mean((2, 3), keepdim=True))).mean((2, 3)))

    for number, network in enumerate((Usual(), Gated())):
        path = tmp_path / f"{number}.safetensors"
        save_artifact(QualityModel(network.eval(), Preprocessing(size=(16, 16))), path)
        model = load_artifact(path)
        model(torch.rand(3, 3, 16, 16))
        assert model.network.meta[COMPANY] == "any"
        assert not model.network.meta[DRAWS]


def test_images_that_are_given_are_left_alone(tmp_path: Path) -> None:
    model = load_artifact(stored(tmp_path / "m.safetensors", [(METHOD, "add_", [ONE, 1.0]), *MEAN]))
    images = torch.rand(2, 3, 16, 16)
    before = images.clone()
    model(images)
    assert torch.equal(images, before)


def live(count: int) -> list[Step]:
    """Return steps that hold many copies of the images at once, each small enough."""
    grown: list[Step] = [(METHOD, "repeat", [ONE, 1, 1, 64, 64])] * count
    return [*grown, call("torch.stack", {"list": [{"node": 1 + number} for number in range(count)]}), *MEAN]


HUNGRY: dict[str, list[Step]] = {
    "many at once": live(40),
    "repeated": [(METHOD, "repeat", [ONE, 1, 1, 400, 400]), *MEAN],
    "patches in float64": [
        call("torch.nn.functional.pad", ONE, {"list": [500] * 4}),
        (METHOD, "double", [{"node": -1}]),
        call("torch.ones", 1, 3, 400, 400),
        (METHOD, "double", [{"node": -1}]),
        call("torch.nn.functional.conv2d", {"node": 2}, {"node": -1}),
        *MEAN,
    ],
    "outer product": [
        call("operator.getitem", ONE, {"tuple": [{"slice": [None, None, None]}] * 3 + [{"slice": [0, 16, None]}]}),
        (METHOD, "reshape", [{"node": -1}, -1, 1]),
        (METHOD, "repeat", [{"node": -1}, 8, 1]),
        (METHOD, "transpose", [{"node": -1}, 0, 1]),
        call("torch.matmul", {"node": 3}, {"node": -1}),
        *MEAN,
    ],
    "unfolded": [
        call("torch.nn.functional.interpolate", ONE, 2000),
        call("torch.nn.functional.unfold", {"node": -1}, 100),
        *MEAN,
    ],
    "antialiased": [
        call("torch.ones", 1, 1, 16000, 1),
        (METHOD, "expand", [{"node": -1}, 1, 3, -1, -1]),
        call("torch.nn.functional.interpolate", {"node": -1}, {"list": [1, 16000]}, mode="bilinear", antialias=True),
        (METHOD, "reshape", [{"node": -1}, -1]),
        (METHOD, "mean", [{"node": -1}, 0]),
        call("operator.add", ONE, {"node": -1}),
        *MEAN,
    ],
}


@pytest.mark.parametrize("size", [(16, 16), None])
@pytest.mark.parametrize("name", HUNGRY)
def test_memory_is_bounded_at_load(
    name: str, size: tuple[int, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IQA_ARMOR_MAX_MEMORY", str(2**29))
    with pytest.raises(ModelLoadError, match=r"takes [\d.]+ GiB at once, and 0.5 GiB are left of --max-memory"):
        load_artifact(stored(tmp_path / "m.safetensors", HUNGRY[name], size=size))


def test_weights_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path / "m.safetensors", [call("operator.mul", ONE, 1.0), *MEAN], a=torch.ones(2**24))
    load_artifact(path)
    monkeypatch.setenv("IQA_ARMOR_MAX_MEMORY", str(2**26))
    with pytest.raises(ModelLoadError, match="are left of --max-memory"):
        load_artifact(path)


def test_nothing_is_computed_at_load(tmp_path: Path) -> None:
    """Neither do constants of a graph have memory while it is rehearsed."""
    wide: list[Step] = [
        call("torch.ones", 16000, 16000),
        call("torch.sin", {"node": -1}),
        call("torch.exp", {"node": -1}),
    ]
    path = stored(tmp_path / "m.safetensors", [*wide, (METHOD, "flatten", [ONE, 1]), MEAN[1]])
    load_artifact(stored(tmp_path / "first.safetensors", MEAN))
    started = time.perf_counter()
    load_artifact(path)
    assert time.perf_counter() - started < 0.5  # the constant alone takes a second


SLOW: dict[str, list[Step]] = {
    "singular values": [call("torch.linalg.norm", ONE, "nuc", {"tuple": [2, 3]}), (METHOD, "mean", [{"node": -1}, 1])],
    "windows": [call("torch.nn.functional.max_pool2d", ONE, 1023, 1, 511), *MEAN],
    "sorted again and again": [call("torch.sort", ONE, 2), call("operator.getitem", {"node": -1}, 0)] * 2000,
    "wide convolution": [
        call("torch.ones", 64, 3, 301, 301),
        call("torch.nn.functional.conv2d", ONE, {"node": -1}, padding=150),
        *MEAN,
    ],
}


@pytest.mark.parametrize("name", SLOW)
def test_operations_are_bounded_at_load(name: str, tmp_path: Path) -> None:
    steps = SLOW[name]
    if name.startswith("sorted"):
        again: list[Step] = [call("torch.sort", ONE, 2) for _ in range(4000)]
        steps = [*again, (METHOD, "flatten", [ONE, 1]), MEAN[1]]
    path = stored(tmp_path / "m.safetensors", steps, size=(2048, 2048))
    started = time.perf_counter()
    with pytest.raises(ModelLoadError, match="operations for an image"):
        load_artifact(path)
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("size", [None, (16, 16)])
def test_what_cannot_be_rehearsed_is_refused(size: tuple[int, int] | None, tmp_path: Path) -> None:
    steps: list[Step] = [(METHOD, "reshape", [ONE, -1, 3, 15, 15]), (METHOD, "repeat", [ONE, 1, 1, 900, 900]), *MEAN]
    with pytest.raises(ModelLoadError, match="its graph fails on images of"):
        load_artifact(stored(tmp_path / "m.safetensors", steps, size=size))


def peak_of(run: Callable[[], Tensor], limit: int) -> bool:
    try:
        with Account(limit, []):
            run()
    except FormatError:
        return False
    return True


def test_what_is_dropped_is_counted_no_more() -> None:
    def chain() -> Tensor:
        value = torch.ones(1000, device="meta")
        for _ in range(100):
            value = value * 2
        return value

    assert peak_of(chain, 3 * 4000)
    assert not peak_of(chain, 4000)


NOT_FINITE: dict[str, list[Step]] = {
    "nan": [(METHOD, "mean", [{"node": -1}, 1]), call("torch.neg", {"node": -1}), call("torch.log", {"node": -1})],
    "inf": [(METHOD, "mean", [{"node": -1}, 1]), call("operator.truediv", {"node": -1}, 0)],
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_a_score_that_is_no_number_is_an_error_of_its_image(name: str, tmp_path: Path) -> None:
    path = stored(tmp_path / "m.safetensors", [MEAN[0], *NOT_FINITE[name]])
    image = write_images(tmp_path / "images", count=1) / "000.png"
    result = CliRunner().invoke(app, ["score", str(path), str(image), "--json"])
    assert result.exit_code == 3
    assert "000.png: m gives a score that is not finite" in " ".join(result.stderr.split())
    assert not result.stdout
    with pytest.raises(ModelLoadError, match="gives a score that is not finite"):
        load_artifact(path).score(image)


class Raises(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        *(NotImplementedError("x"), IndexError("x"), OverflowError("x"), StopIteration("x"), SystemError("x")),
        *(BufferError("x"), SyntaxError("x"), RecursionError("x"), MemoryError("x"), torch.linalg.LinAlgError("x")),
        *(AssertionError("x"), EOFError("x")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_network_raises_is_one_sentence(error: BaseException) -> None:
    model = QualityModel(Raises(error), Preprocessing(size=None), name="raises")
    with pytest.raises(ModelLoadError, match=r"^raises fails on torch.float32 images of shape .*float32") as caught:
        model(torch.rand(1, 3, 8, 8))
    assert "\n" not in str(caught.value)


def test_operators_that_only_run_can_refuse_are_one_sentence(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.safetensors", [call("operator.and_", ONE, 64), *MEAN])
    image = write_images(tmp_path / "images", count=1) / "000.png"
    result = CliRunner().invoke(app, ["score", str(path), str(image)])
    assert result.exit_code == 3
    assert "fails on torch.float32 images" in " ".join(result.stderr.split())


def test_a_traced_network_is_not_asked(tmp_path: Path) -> None:
    network = trace(nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1)).eval(), torch.zeros(1, 3, 16, 16))
    QualityModel(network, Preprocessing(size=None))(torch.rand(2, 3, 16, 16))
    assert COMPANY not in network.meta
