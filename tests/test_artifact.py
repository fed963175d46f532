"""Round trips of the artifact: what is saved loads with the same scores, whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, fx, nn
from torch.nn import functional

from iqa_armor.artifact import is_artifact, load_artifact, read_metadata, save_artifact
from iqa_armor.errors import ArmorError, ModelLoadError
from iqa_armor.models.backbone import torchvision_network
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.ortho import RobustBlock

SIZE = (64, 64)


def model_of(network: nn.Module, size: tuple[int, int] | None = SIZE) -> QualityModel:
    preprocessing = Preprocessing(size=size, interpolation="bicubic", antialias=False, mean=(0.5, 0.4, 0.3))
    return QualityModel(network.eval(), preprocessing, scale=ScoreScale(1.5, 9.25, False), name="tiny", arch="own:net")


def saved(network: nn.Module, folder: Path, size: tuple[int, int] | None = SIZE) -> tuple[QualityModel, Path]:
    model, path = model_of(network, size), folder / "model.safetensors"
    save_artifact(model, path, recipe={"prune": 0.1}, provenance={"seed": 3})
    return model, path


def scores(model: QualityModel, size: tuple[int, int] = SIZE) -> Tensor:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(images)


class Unusual(nn.Module):
    """Uses attributes, functions, methods, defaults and index expressions that plain backbones do not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same", bias=False), nn.PReLU(8))
        self.gain = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("shift", torch.rand(8, 1, 1), persistent=False)
        self.register_buffer("order", torch.arange(7, -1, -1))
        self.head = nn.Linear(16, 1)

    def forward(self, images: Tensor, extra: float = 0.5) -> Tensor:
        maps = self.stem(images)[..., 1:-1, :].clamp(max=float("inf"))
        maps = (2 * maps * self.gain + self.shift) / (1.0 + extra)
        maps = maps.index_select(1, self.order)
        a, b = maps.chunk(2, dim=1)
        gram = torch.einsum("nchw,ndhw->ncd", a, b)
        pooled = functional.interpolate(gram.unsqueeze(1), size=(4, 4), mode="bilinear", align_corners=False)
        return self.head(pooled.view(images.shape[0], -1)) + functional.normalize(maps).mean(dim=(1, 2, 3)).unsqueeze(1)


class Attending(nn.Module):
    """A convolution with a transformer-like head on its map."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 16, 16)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head(self.norm(tokens + mixed).mean(1)).squeeze(-1)


def small_dense() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=1)


def small_vgg() -> nn.Module:
    from torchvision.models import vgg

    return nn.Sequential(
        vgg.make_layers([8, "M", 16, "M", 16, "M"]),
        nn.AdaptiveAvgPool2d((7, 7)),
        nn.Flatten(),
        nn.Linear(16 * 49, 16),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(16, 1),
    )


def small_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=1)


NETWORKS = {
    "resnet18": lambda: torchvision_network("resnet18"),
    "mobilenet_v2": lambda: torchvision_network("mobilenet_v2"),
    "shufflenet_v2_x0_5": lambda: torchvision_network("shufflenet_v2_x0_5"),
    "squeezenet1_1": lambda: torchvision_network("squeezenet1_1"),
    "mnasnet0_5": lambda: torchvision_network("mnasnet0_5"),
    "regnet_y_400mf": lambda: torchvision_network("regnet_y_400mf"),
    "dense": small_dense,
    "vgg": small_vgg,
    "convnext": small_convnext,
    "unusual": Unusual,
    "attending": Attending,
    **{
        f"robust-{backend}": lambda backend=backend: nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1),
            nn.ReLU(inplace=True),
            RobustBlock(8, backend=backend),
            nn.Conv2d(8, 4, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 1),
        )
        for backend in ("cayley", "aoc", "aol")
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_bit_equal_after_save_and_load(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, path = saved(NETWORKS[name](), tmp_path)
    loaded = load_artifact(path)
    assert torch.equal(scores(model), scores(loaded))
    assert isinstance(loaded.network, fx.GraphModule)
    assert not loaded.network.training


def test_a_spliced_block_survives_save_and_load_twice(tmp_path: Path) -> None:
    torch.manual_seed(2)
    from iqa_armor.surgery import trace

    traced = trace(torchvision_network("resnet18").eval(), torch.zeros(1, 3, *SIZE))
    cut = next(node for node in traced.graph.nodes if node.name == "layer3_1_relu_1")
    traced.add_submodule("robust_layer3", RobustBlock(256))
    with traced.graph.inserting_after(cut):
        inserted = traced.graph.call_module("robust_layer3", (cut,))
    cut.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)
    traced.recompile()
    model, path = saved(traced, tmp_path)
    once = load_artifact(path)
    again = tmp_path / "again.safetensors"
    save_artifact(once, again, recipe={}, provenance={})
    assert torch.equal(scores(model), scores(load_artifact(again)))
    assert type(once.network.get_submodule("robust_layer3")) is RobustBlock


def test_settings_and_names_survive(tmp_path: Path) -> None:
    model, path = saved(NETWORKS["squeezenet1_1"](), tmp_path)
    loaded = load_artifact(path)
    assert loaded.preprocessing == model.preprocessing
    assert (loaded.scale, loaded.name, loaded.arch) == (model.scale, "tiny", "own:net")
    assert list(loaded.network.state_dict()) == list(model.network.state_dict())
    units = {node.meta.get("unit") for node in loaded.network.graph.nodes}
    assert units == {None}


def test_residual_units_survive(tmp_path: Path) -> None:
    _, path = saved(NETWORKS["resnet18"](), tmp_path)
    units = {node.name: node.meta.get("unit") for node in load_artifact(path).network.graph.nodes}
    assert units["layer4_0_conv1"] == "layer4.0"


def test_a_model_without_size_and_scale_survives(tmp_path: Path) -> None:
    model = QualityModel(nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1)), Preprocessing(size=None))
    save_artifact(model, tmp_path / "m.safetensors", recipe={}, provenance={})
    loaded = load_artifact(tmp_path / "m.safetensors")
    assert loaded.scale is None
    assert loaded.preprocessing.size is None


def test_half_precision_weights_keep_their_type(tmp_path: Path) -> None:
    from iqa_armor.surgery import trace

    traced = trace(
        nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.AdaptiveAvgPool2d(1)), torch.zeros(1, 3, 8, 8)
    )
    _, path = saved(traced.to(torch.bfloat16), tmp_path)
    state = load_artifact(path).network.state_dict()
    assert state["0.weight"].dtype == torch.bfloat16
    assert state["1.num_batches_tracked"].dtype == torch.int64


def test_tied_weights_are_stored_apart(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
            self.b.weight = self.a.weight

        def forward(self, images: Tensor) -> Tensor:
            return self.b(self.a(images)).mean((1, 2, 3))

    model, path = saved(Tied(), tmp_path)
    assert torch.equal(scores(model), scores(load_artifact(path)))


def test_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    loaded = load_artifact(saved(NETWORKS["robust-cayley"](), tmp_path)[1])
    loaded(torch.rand(2, 3, *SIZE)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.network.parameters())


def test_a_fresh_process_loads_it_without_the_source(tmp_path: Path) -> None:
    model, path = saved(Unusual(), tmp_path)
    program = (
        "import sys, torch\nfrom pathlib import Path\nfrom iqa_armor.artifact import load_artifact\n"
        "images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))\n"
        "print([value.hex() for value in load_artifact(Path(sys.argv[1]))(images).tolist()])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = [value.hex() for value in scores(model).tolist()]
    torch.set_num_threads(threads)
    assert run.stdout.strip() == str(expected)


def test_metadata_is_recorded_as_given(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    provenance = {
        "sha256": "ab",
        "seed": 7,
        "metrics": {"srocc": float("nan")},
        "source": Path("a/b.pt"),
        "list": (1, 2),
    }
    save_artifact(model_of(NETWORKS["squeezenet1_1"]()), path, recipe={"prune": 0.1}, provenance=provenance)
    metadata = read_metadata(path)
    assert metadata["recipe"] == {"prune": 0.1}
    assert metadata["provenance"] == {
        "sha256": "ab",
        "seed": 7,
        "metrics": {"srocc": None},
        "source": "a/b.pt",
        "list": [1, 2],
    }
    assert metadata["format"] == 1
    assert "nodes" not in metadata


def test_the_file_is_plain_safetensors_without_source(tmp_path: Path) -> None:
    _, path = saved(NETWORKS["unusual"](), tmp_path)
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["iqa_armor"])
        assert set(file.keys()) == set(description["tensors"])
    assert {node["op"] for node in description["nodes"]} <= {
        *("placeholder", "get_attr", "call_module", "call_function", "call_method", "output"),
    }


def test_is_artifact_knows_its_own_files(tmp_path: Path) -> None:
    _, path = saved(NETWORKS["squeezenet1_1"](), tmp_path)
    foreign = tmp_path / "foreign.pt"
    torch.save({}, foreign)
    assert is_artifact(path)
    assert not is_artifact(foreign)
    assert not is_artifact(tmp_path / "missing")
    assert not is_artifact(tmp_path)


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_an_interrupted_save_leaves_the_old_file(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = saved(NETWORKS["squeezenet1_1"](), tmp_path)
    before = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*((Path, "replace") if broken == "replace" else (os, "fsync")), interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_artifact(model_of(Unusual()), path, recipe={}, provenance={})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_saving_leaves_no_final_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    program = (
        "import os, signal, sys, torch\nfrom pathlib import Path\nfrom torch import nn\n"
        "from iqa_armor.artifact import save_artifact\nfrom iqa_armor.models.base import QualityModel, Preprocessing\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "model = QualityModel(nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1)), Preprocessing(size=(8, 8)))\n"
        "save_artifact(model, Path(sys.argv[1]), recipe={}, provenance={})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", program, str(path)], env=environment, capture_output=True)
    assert run.returncode < 0
    assert not path.exists()
    assert [left.suffix for left in tmp_path.iterdir()] == [".partial"]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArmorError, match=r"cannot write .*nowhere"):
        save_artifact(model_of(Unusual()), tmp_path / "nowhere" / "m.safetensors", recipe={}, provenance={})


class Custom(nn.ReLU):
    """A layer of the user's own that looks like a torch.nn one to the tracer."""


Custom.__module__ = "torch.nn.custom"


def weights_with_nan() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1))
    network[0].weight.data[0, 0] = float("nan")
    return network


def with_hook() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1))
    network[0].register_forward_hook(lambda *_: None)
    return network


class Sorting(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.sort(images.flatten(1))[0][:, 0]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 1, 1), Custom(), nn.AdaptiveAvgPool2d(1)), "torch.nn.custom.Custom"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 1, 1)), nn.AdaptiveAvgPool2d(1)),
            "Conv2d",
        ),
        (weights_with_nan(), "NaN or infinite in '0.weight'"),
        (with_hook(), "forward hooks"),
        (Sorting(), "torch.sort"),
    ],
)
def test_what_has_no_stored_form_is_refused_before_writing(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=message):
        saved(fx.symbolic_trace(network), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_records_must_be_json_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe\.model must hold JSON values only"):
        save_artifact(model_of(Unusual()), tmp_path / "m", recipe={"model": Unusual()}, provenance={})
