"""Round trips of the artifact: what is saved loads with the same scores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from iqa_armor.artifact.storage import load_artifact, save_artifact
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.models.build import torchvision_network
from iqa_armor.ortho.block import RobustBlock

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
    from iqa_armor.graph.trace import trace

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
    from iqa_armor.graph.trace import trace

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


PROGRAM = """
import os, signal, sys, torch
from pathlib import Path
from iqa_armor.artifact.storage import load_artifact, save_artifact
model = load_artifact(Path(sys.argv[1]))
images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
print([value.hex() for value in model(images).tolist()], flush=True)
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
save_artifact(model, Path(sys.argv[2]), recipe={}, provenance={})
"""


def test_a_fresh_process_loads_it_and_killed_while_saving_leaves_no_final_file(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model, path = saved(Unusual(), tmp_path)
    target = tmp_path / "target" / "model.safetensors"
    target.parent.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(path), str(target)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = [value.hex() for value in scores(model).tolist()]
    torch.set_num_threads(threads)
    assert run.stdout.strip() == str(expected), run.stderr
    assert run.returncode < 0
    assert [left.name.split("-")[0] for left in target.parent.iterdir()] == [".model.safetensors.unfinished"]
    save_artifact(model, target, recipe={}, provenance={})
    assert list(target.parent.iterdir()) == [target]
