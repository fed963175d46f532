"""What people write in a forward is followed, stored and pruned, or refused by its reason."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import einops
import kornia
import pytest
import torch
from conftest import memory_dataset
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune, weight_norm
from torchvision import transforms
from torchvision.transforms import v2

from iqa_armor.artifact.storage import load_artifact
from iqa_armor.errors import ArmorError, SurgeryError
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.harden import harden
from iqa_armor.recipe import Recipe

SIDE = 32


@torch.jit.script
def generalised_mean(x: Tensor, power: float) -> Tensor:
    return x.clamp(min=1e-6).pow(power).mean(dim=[2, 3]).pow(1.0 / power)


class Written(nn.Module):
    """Three stages and a head, between which something is done."""

    def __init__(self, between: Any, *, fed: int = 16, head: Any = lambda _, x: x.mean((2, 3))) -> None:
        super().__init__()
        self.between, self.head = between, head
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(fed, 16, 3, 2, 1)
        self.third, self.last = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()), nn.Linear(16, 1)
        self.scale, self.power = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(2.0))
        self.tables, self.cell = {2: 1.0, 4: 3.0}, nn.GRUCell(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(functional.relu(self.second(self.between(self, self.first(x)))))
        return self.last(self.head(self, x))


def exact(self: Any, x: Tensor) -> Tensor:
    assert x.shape[2:] == torch.Size([16, 16]), f"{x.shape[2:]}"
    return x * self.tables[x.ndim]


def by_parameters(self: Any, x: Tensor) -> Tensor:
    return x * self.scale.item() + float(self.power) if self.scale > 0 else x


def asking(_: Any, x: Tensor) -> Tensor:
    assert isinstance(x, Tensor)
    assert torch.is_tensor(x)
    assert not torch.is_complex(x)
    x = x.type(dtype=torch.float32)
    if not x.is_floating_point() or x.element_size() != 4 or x.type() != "torch.FloatTensor":
        x = x.float() / 255
    return x.clamp(min=torch.finfo(x.dtype).eps) if x.stride()[-1] == 1 else x


def made_alike(_: Any, x: Tensor) -> Tensor:
    border = x.new_zeros(x.shape[0], x.shape[1], 1, x.shape[3])
    rows = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).fill_(0.5)
    return torch.cat([x, border], 2) * x.new_full((x.size(0), 1, 1, 1), 2.0) * rows + x.new_tensor([0.5]).view(
        1, 1, 1, 1
    )


def transformed(_: Any, x: Tensor) -> Tensor:
    x = transforms.functional.gaussian_blur(
        transforms.functional.normalize(x, [0.1] * 16, [0.5] * 16), [3, 3], [1.0, 1.0]
    )
    return v2.functional.normalize(v2.functional.resize(x, [12, 12]), [0.1] * 16, [0.5] * 16)


def in_order(_: Any, x: Tensor) -> Tensor:
    x = x.flatten(2)
    low, high = torch.quantile(x, torch.tensor([0.25, 0.75]), dim=2)
    return low + high + x.median(2).values + torch.kthvalue(x, 2, dim=2).values + x.nanquantile(0.5, dim=2)


def in_pieces(_: Any, x: Tensor) -> Tensor:
    distance = functional.mse_loss(x, x.flip(3), reduction="none")
    distance = distance + functional.l1_loss(x, x.rot90(1, (2, 3)), reduction="none")
    return torch.nan_to_num(torch.atan2(x, distance + 1)).tril().cummax(2).values


FOLLOWED: dict[str, Any] = {
    "questions about a tensor": lambda: Written(asking),
    "tensors made like others": lambda: Written(made_alike),
    "torchvision's transforms": lambda: Written(transformed),
    "kornia's filters": lambda: Written(
        lambda _, x: kornia.filters.sobel(kornia.filters.gaussian_blur2d(x, (3, 3), (1, 1)))
    ),
    "a recurrent cell": lambda: Written(lambda _, x: x, head=by_a_cell),
    "order statistics": lambda: Written(lambda _, x: x, head=in_order),
    "losses and angles": lambda: Written(in_pieces),
    "sizes compared, a table of axes": lambda: Written(exact),
    "layers made in forward": lambda: Written(
        lambda _, x: nn.ZeroPad2d((1, 0, 1, 0))(nn.LeakyReLU(0.2)(x)),
        head=lambda _, x: nn.Flatten()(nn.AdaptiveAvgPool2d(1)(x)),
    ),
    "padding by minus infinity": lambda: Written(
        lambda _, x: functional.max_pool2d(functional.pad(x, (1, 1, 1, 1), value=-math.inf), 3, 1),
        head=lambda _, x: torch.hstack([x.mean((2, 3))[:, :8], x.amax((2, 3))[:, 8:]]),
    ),
    "a cast to single precision": lambda: Written(lambda _, x: x.type(torch.float32)),
    "numbers of parameters": lambda: Written(by_parameters),
    "fields of what topk gives": lambda: Written(
        lambda _, x: x, head=lambda _, x: x.flatten(2).topk(3, dim=2).values.mean(2)
    ),
    "a gated unit": lambda: Written(lambda _, x: functional.glu(x, dim=1), fed=8),
    "a TorchScript function": lambda: Written(lambda _, x: x, head=lambda _, x: generalised_mean(x, 3.0)),
    "distances to centres": lambda: Written(
        lambda _, x: x, head=lambda self, x: torch.cdist(x.mean((2, 3)), self.last.weight).expand(-1, 16)
    ),
    "products added": lambda: Written(lambda self, x: torch.addcmul(x, x, self.scale, value=0.5)),
    "a value for each image": lambda: Written(
        lambda self, x: x * torch.stack([self.scale] * len(x))[:, None, None, None]
    ),
    "the number of images times a value": lambda: Written(
        lambda self, x: x + torch.stack(len(x) * [self.scale]).view(-1, 1, 1, 1)
    ),
    "a diagonal": lambda: Written(lambda _, x: x, head=lambda _, x: x.diagonal(dim1=2, dim2=3).mean(2)),
}


def by_a_cell(self: Any, x: Tensor) -> Tensor:
    state = torch.zeros(x.shape[0], 16, device=x.device)
    for column in range(x.shape[3]):
        state = self.cell(x.mean(2)[..., column], state)
    return state


def hardened(network: nn.Module, folder: Path) -> Any:
    model = QualityModel(network.eval(), Preprocessing(size=(SIDE, SIDE)), name="written")
    result = harden(model, memory_dataset(training=8), Recipe(epochs=0, calibration=4))
    result.save(folder / "hardened.safetensors")
    images = torch.rand(3, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert torch.equal(load_artifact(folder / "hardened.safetensors")(images), result.model(images))
    return result.pruned


@pytest.mark.parametrize("name", FOLLOWED)
def test_it_is_hardened_with_proof(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pruned = hardened(FOLLOWED[name](), tmp_path)
    assert pruned.share > 0.05
    assert pruned.proof < 1e-5


@pytest.mark.parametrize("computed", [weight_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.3)])
def test_old_ways_to_compute_weights_are_baked_once_they_have_run(computed: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Written(lambda _, x: x)
    network.second = computed(network.second)
    network(torch.rand(1, 3, SIDE, SIDE))
    assert not network.second.weight.is_leaf
    assert hardened(network, tmp_path).share > 0.05


class Scaling(nn.Module):
    """Layers, weights of its own, a loop and an `if`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.Dropout(0.5))
        self.scale, self.times = nn.Parameter(torch.rand(16, 1, 1)), 2

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        for _ in range(self.times):
            x = torch.relu(x + self.layers(x) * self.scale)
        return x if skip else x.mean(1, keepdim=True) + x


@pytest.mark.parametrize("nested", [False, True])
def test_scripted_submodules_are_taken_for_their_source_with_the_weights_they_have_now(
    tmp_path: Path, nested: bool
) -> None:
    scripted = torch.jit.script(Scaling())
    network = Written(lambda self, x: self.scripted(x))
    network.scripted = torch.jit.script(nn.Sequential(scripted, Scaling())) if nested else scripted
    with torch.no_grad():
        for parameter in network.scripted.parameters():
            parameter.copy_(torch.rand_like(parameter) * 0.2)
    network.scripted.to(torch.float64).to(torch.float32)
    network.eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    traced = trace(network, images[:1])
    assert isinstance(network.scripted, torch.jit.ScriptModule), "the network itself was changed"
    torch.testing.assert_close(traced(images), network(images))
    assert not any(isinstance(module, torch.jit.ScriptModule) for module in traced.modules())
    assert hardened(network, tmp_path).share > 0.05


def test_a_scripted_network_is_taken_for_its_source() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Dropout(0.5)))
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(trace(scripted, images[:1])(images), scripted.eval()(images))


def test_a_tensor_that_forward_writes_over_is_kept(tmp_path: Path) -> None:
    """As CLIP's text encoder does with an attention mask that all its blocks share."""
    mask = torch.rand(16, 1, 1)

    class Masking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = mask

        def forward(self, x: Tensor) -> Tensor:
            self.mask = self.mask.to(dtype=x.dtype, device=x.device)
            return x * self.mask

    network = Written(lambda self, x: self.masks(x))
    network.masks = nn.Sequential(Masking(), Masking())
    assert hardened(network.eval(), tmp_path).share > 0.05


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda _, x: x - x.mean().item(), "a number is asked of a tensor, so what happens depends on the pixels"),
        (lambda _, x: x - torch.from_numpy(x.detach().numpy()), "a number is asked of a tensor"),
        (lambda _, x: torch.stack([image.roll(1) for image in x]), r"how many images come together .*image\.roll"),
        (lambda self, x: self.tables["layer"](x), "a Conv2d is no submodule; keep layers in nn.ModuleList"),
        (lambda _, x: x * len(Path("/nowhere/mean.txt").read_text()), "FileNotFoundError: .*nowhere/mean.txt"),
        (lambda self, x: self.recorded(x), "'recorded' is TorchScript without the Python source"),
        (lambda self, x: self.tables["hidden"][0](x), "a weight that it works with is no part of the network"),
    ],
)
def test_it_is_refused_by_its_reason(between: Any, reason: str) -> None:
    network = Written(between)
    network.tables["layer"] = nn.Conv2d(16, 16, 1)  # type: ignore[index]
    network.tables["hidden"] = [Scaling()]  # type: ignore[index]
    network.recorded = torch.jit.trace(nn.Sequential(nn.Conv2d(16, 16, 1)), torch.rand(1, 16, 4, 4))
    with pytest.raises(SurgeryError, match=reason):
        trace(network.eval(), torch.rand(1, 3, SIDE, SIDE))


def test_a_network_of_torchscript_and_one_in_half_precision_are_refused_by_their_reason() -> None:
    with pytest.raises(SurgeryError, match="the network is TorchScript without the Python source"):
        trace(torch.jit.trace(nn.Conv2d(3, 3, 1), torch.rand(1, 3, 8, 8)), torch.rand(1, 3, 8, 8))

    class Half(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    with pytest.raises(SurgeryError, match=r"half precision under torch\.autocast"):
        trace(Half(nn.Conv2d(3, 3, 1)), torch.rand(1, 3, 8, 8))


def test_scores_without_gradient_ask_for_another_criterion(tmp_path: Path) -> None:
    network = Written(lambda _, x: x, head=lambda _, x: x.mean((2, 3)).round())
    network.last = nn.Sequential(nn.Linear(16, 8), nn.Softmax(1))
    network.forward = lambda x: Written.forward(network, x).argmax(1).float()  # type: ignore[method-assign]
    with pytest.raises(ArmorError, match="no gradient, as behind argmax; pass --criterion l1"):
        hardened(network, tmp_path)


def test_kinds_are_asked_in_every_module_of_a_networks_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "asking_parcel"
    package.mkdir()
    (package / "__init__.py").write_text("isinstance = isinstance  # one of its own, which it keeps\n")
    (package / "tools.py").write_text(
        "import torch\ndef doubled(x):\n    return 2 * x if isinstance(x, torch.Tensor) else [each for each in x]\n"
    )
    (package / "network.py").write_text(
        "from torch import nn\nfrom asking_parcel.tools import doubled\n"
        "class Doubling(nn.Module):\n    def forward(self, x):\n        return doubled(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from asking_parcel.network import Doubling  # type: ignore[import-not-found]

    traced = trace(Doubling(), torch.rand(1, 3, 8, 8))
    assert torch.equal(traced(torch.ones(2, 3, 8, 8)), torch.full((2, 3, 8, 8), 2.0))
    assert "isinstance" not in vars(sys.modules["asking_parcel.tools"])
    assert vars(sys.modules["asking_parcel"])["isinstance"] is isinstance


def test_einops_is_followed(tmp_path: Path) -> None:
    def windows(_: Any, x: Tensor) -> Tensor:
        cut = einops.rearrange(x, "b c (h p) (w q) -> b (h w) c p q", p=8, q=8)
        return einops.rearrange(cut, "b (h w) c p q -> b c (h p) (w q)", h=2)

    torch.manual_seed(0)
    network = Written(windows, head=lambda _, x: einops.reduce(x, "b c h w -> b c", "mean"))
    assert hardened(network, tmp_path).share > 0.05
