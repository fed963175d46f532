"""Purifiers from files: round trips, promises, and what is refused without being run."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import seeded
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim

from iqa_armor.defenses.base import read_purifier
from iqa_armor.defenses.defended import Purified
from iqa_armor.defenses.purifiers.fcn import load_fcn, new_fcn, save_fcn
from iqa_armor.errors import ArmorError, ModelLoadError, UsageError


def noisy(count: int = 2, size: tuple[int, int] = (24, 32)) -> Tensor:
    return torch.rand(count, 3, *size, generator=seeded(1))


class Soften(nn.Module):
    """A filter of one layer, with a batch statistic or another size where a test asks for it."""

    def __init__(self, *, mixes: bool = False, grows: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=2 if grows else 1, padding_mode="replicate" if not grows else "zeros")
        self.mixes = mixes
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(3).view(3, 3, 1, 1) / 9)
            self.layer.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        softened = self.layer(images)
        return softened - softened.mean(0, keepdim=True) + 0.5 if self.mixes else softened


def write_pt2(path: Path, network: nn.Module, *, free: bool = True, count: int = 2) -> Path:
    sides = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},) if free else None
    program = torch.export.export(network.eval(), (torch.rand(count, 3, 16, 24),), dynamic_shapes=sides)
    torch.export.save(program, path)
    return path


def write_onnx(path: Path, network: nn.Module) -> Path:
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(
        network.eval(),
        (torch.rand(2, 3, 16, 24),),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},),
    )
    assert program is not None
    program.save(str(path))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pt2(tmp_path_factory.mktemp("networks") / "soften.pt2", Soften())


# FCN


def trained_looking(seed: int = 0) -> Any:
    network = new_fcn(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=seeded(3)))
    return network


def test_a_new_filter_changes_nothing() -> None:
    images = noisy()
    assert torch.equal(new_fcn(0)(images), images)


def test_a_filter_depends_on_its_seed_only() -> None:
    state = torch.get_rng_state()
    first, again, other = (new_fcn(seed).layers[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_filter_has_the_layers_of_the_paper() -> None:
    widths = [(layer.in_channels, layer.out_channels) for layer in new_fcn(0).layers if isinstance(layer, nn.Conv2d)]
    assert widths == [(3, 64), (64, 16), (16, 3)]


def test_a_filter_comes_back_bit_by_bit(tmp_path: Path) -> None:
    network, path = trained_looking(), tmp_path / "fcn.safetensors"
    save_fcn(network, path, provenance={"epochs": 3})
    purifier = read_purifier(f"fcn:path={path}")
    assert torch.equal(purifier(noisy(), seeded()), network(noisy()))
    assert load_fcn(path)[1] == {"epochs": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["fcn.safetensors"]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (17, 33)], ids=str)
def test_a_filter_takes_any_size_and_keeps_images_apart(size: tuple[int, int]) -> None:
    network, images = trained_looking(), noisy(size=size)
    purified = network(images)
    assert purified.shape == images.shape
    assert 0 <= purified.min() <= purified.max() <= 1
    torch.testing.assert_close(network(images[:1]), purified[:1])


def test_a_filter_passes_gradients_to_the_attacker(make_model: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "fcn.safetensors"
    save_fcn(trained_looking(), path, provenance={})
    model = Purified(make_model(), {"fcn": read_purifier(f"fcn:path={path}")})
    images = noisy(1, (32, 40)).requires_grad_()
    (gradient,) = torch.autograd.grad(model.attacked_scores(images).sum(), images)
    (bare,) = torch.autograd.grad(model.inner(images).sum(), images)
    assert gradient.abs().sum() > 0
    assert not torch.allclose(gradient, bare)


def test_other_files_are_no_filters(tmp_path: Path) -> None:
    other, path = tmp_path / "other.safetensors", tmp_path / "fcn.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(ModelLoadError, match="is no FCN filter; train one with"):
        read_purifier(f"fcn:path={other}")
    save_file({"weight": torch.zeros(3)}, path, {"iqa_armor_purifier": json.dumps({"kind": "fcn", "format": 1})})
    with pytest.raises(ModelLoadError, match="layers of an FCN filter"):
        read_purifier(f"fcn:path={path}")
    save_file({"weight": torch.zeros(3)}, path, {"iqa_armor_purifier": json.dumps({"kind": "fcn", "format": 2})})
    with pytest.raises(ModelLoadError, match="format 2 and this version reads 1"):
        read_purifier(f"fcn:path={path}")
    path.write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match="damaged"):
        read_purifier(f"fcn:path={path}")


# Networks from files


def test_an_exported_network_computes_and_differentiates_as_it_did(exported: Path) -> None:
    purifier, images = read_purifier(f"file:path={exported}"), noisy(3, (19, 37)).requires_grad_()
    assert purifier.is_differentiable
    purified = purifier(images, seeded())
    torch.testing.assert_close(purified, Soften()(images).clamp(0, 1))
    weights = torch.rand(images.shape, generator=seeded(5))
    (gradient,) = torch.autograd.grad((weights * purified).sum(), images)
    (expected,) = torch.autograd.grad((weights * Soften()(images)).sum(), images)
    torch.testing.assert_close(gradient, expected)


def test_an_exported_network_is_part_of_a_model_that_is_switched_to_eval(
    exported: Path, make_model: Callable[..., Any]
) -> None:
    model = Purified(make_model(), {"file": read_purifier(f"file:path={exported}")})
    assert model.eval()(noisy(2, (32, 40))).shape == (2,)
    assert any("sha256" in name for name in model.state_dict())


def test_a_network_for_one_image_is_called_image_by_image(tmp_path: Path) -> None:
    path = write_pt2(tmp_path / "one.pt2", Soften(), free=False, count=1)
    purifier = read_purifier(f"file:path={path}")
    images = noisy(3, (16, 24))
    torch.testing.assert_close(purifier(images, seeded()), Soften()(images).clamp(0, 1))
    with pytest.raises(ModelLoadError, match="takes images of 16x24 only, got 16x25"):
        purifier(noisy(1, (16, 25)), seeded())


def test_onnx_computes_the_same_without_a_gradient(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    purifier = read_purifier(f"file:path={write_onnx(tmp_path / 'soften.onnx', Soften())}")
    images = noisy(2, (17, 21))
    torch.testing.assert_close(purifier(images, seeded()), Soften()(images).clamp(0, 1), atol=1e-5, rtol=1e-5)
    assert not purifier.is_differentiable


def test_sides_can_be_padded_to_a_multiple(tmp_path: Path) -> None:
    network = nn.Sequential(nn.PixelUnshuffle(4), nn.PixelShuffle(4))
    path = tmp_path / "shuffle.pt2"
    side = {"height": 4 * Dim("h", min=2, max=64), "width": 4 * Dim("w", min=2, max=64)}
    sides = ({0: Dim.AUTO, 2: side["height"], 3: side["width"]},)
    torch.export.save(torch.export.export(network, (torch.rand(2, 3, 16, 24),), dynamic_shapes=sides), path)
    images = noisy(2, (17, 22))
    with pytest.raises(ModelLoadError, match="add multiple=NUMBER"):
        read_purifier(f"file:path={path}")(images, seeded())
    assert torch.equal(read_purifier(f"file:path={path},multiple=4")(images, seeded()), images)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Soften(mixes=True), "mixes the images of a batch"),
        (Soften(grows=True), r"must keep the shape of images, but gave \(2, 3, 66, 66\)"),
        (nn.Sequential(Soften(), nn.Threshold(2, float("nan"))), "not finite"),
        (nn.AdaptiveAvgPool2d(1), "must keep the shape"),
    ],
    ids=["mixes", "grows", "nan", "pools"],
)
def test_networks_that_break_the_contract_are_refused(network: nn.Module, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=said):
        read_purifier(f"file:path={write_pt2(tmp_path / 'network.pt2', network)}")


def test_a_network_without_a_gradient_is_passed_straight_through(tmp_path: Path) -> None:
    class Cut(Soften):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.detach())

    path = write_pt2(tmp_path / "cut.pt2", Cut())
    assert not read_purifier(f"file:path={path}").is_differentiable


# Files that would run code


def edited(source: Path, target: Path, edit: Callable[[str, bytes], bytes | None], **extra: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = edit(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in extra.items():
            new.writestr(f"{source.stem}/{name}", content)
    return target


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def replaced(part: str, old: str, new: str) -> Callable[[str, bytes], bytes]:
    def edit(name: str, content: bytes) -> bytes:
        if part not in name:
            return content
        changed = content.replace(old.encode(), new.encode())
        assert changed != content
        return changed

    return edit


@pytest.mark.parametrize(
    ("part", "old", "new", "said"),
    [
        ("models/", '"torch.ops.aten.conv2d.default"', '"torch.os.system"', "target 'torch.os.system'"),
        ("models/", '"torch.ops.aten.conv2d.default"', '"torch.ops.aten.from_file.default"', "from_file"),
        ("models/", '"torch.ops.aten.conv2d.default"', '"math.__loader__"', "math.__loader__"),
        ("models/", '"torch.ops.aten.conv2d.default"', '"torch.ops.aten.__class__.__init__"', "__class__"),
        ("models/", "Symbol('s", "__import__('s", "expr_str"),
        ("models/", "Integer(", "exec(", "expr_str"),
        ("models/", "Integer(3)", "Integer.mro(3)", "expr_str"),
        ("models/", '"name": "images"', '"name": "images=print(1)"', "name 'images=print"),
        ("models/", "builtins.tuple", "os.system", "in_spec"),
        ("weights_config", '"use_pickle": false', '"use_pickle": true', "pickled objects"),
        ("weights_config", '"weight_0"', '"custom_obj_0"', "pickled objects"),
    ],
)
def test_hostile_archives_are_refused(part: str, old: str, new: str, said: str, exported: Path, tmp_path: Path) -> None:
    path = edited(exported, tmp_path / "hostile.pt2", replaced(part, old, new))
    with pytest.raises(ModelLoadError, match="was not opened, because") as caught:
        read_purifier(f"file:path={path}")
    assert said in str(caught.value)


def test_pickles_inside_an_archive_are_not_run(exported: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save(Bomb(mark), tmp_path / "bomb.pt")
    bomb = (tmp_path / "bomb.pt").read_bytes()
    sample = edited(exported, tmp_path / "a.pt2", lambda name, old: bomb if name.endswith(".pt") else old)
    with pytest.raises(ModelLoadError, match="sample inputs are more than tensors"):
        read_purifier(f"file:path={sample}")
    extra = edited(exported, tmp_path / "b.pt2", lambda _, old: old, **{"data/constants/model.pt": bomb})
    with pytest.raises(ModelLoadError, match="no part of an exported network"):
        read_purifier(f"file:path={extra}")
    assert not mark.exists()


def test_a_graph_is_checked_whatever_its_name(exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        (name,) = (name for name in archive.namelist() if "/models/" in name)
        graph = archive.read(name).replace(b"torch.ops.aten.conv2d.default", b"torch.os.system")
    disguised = json.dumps({"config": {}, **json.loads(graph)}).encode()
    path = edited(exported, tmp_path / "c.pt2", lambda _, old: old, **{"models/graph_config.json": disguised})
    with pytest.raises(ModelLoadError, match=r"target 'torch\.os\.system'"):
        read_purifier(f"file:path={path}")


def test_guards_in_an_archive_are_not_evaluated(exported: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    def guarded(name: str, content: bytes) -> bytes:
        if "models/" not in name:
            return content
        graph = json.loads(content)
        assert "guards_code" in graph
        graph["guards_code"] = [f"__import__('pathlib').Path({str(mark)!r}).touch()"]
        return json.dumps(graph).encode()

    read_purifier(f"file:path={edited(exported, tmp_path / 'guard.pt2', guarded)}")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_and_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    script, mark = tmp_path / "script.pt2", tmp_path / "ran"
    torch.jit.save(torch.jit.trace(Soften(), noisy()), script)
    with pytest.raises(ModelLoadError, match=r"it is TorchScript.*torch.export.save or as ONNX"):
        read_purifier(f"file:path={script}")
    for name in ("network.pt", "network.pt2", "network.onnx"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(mark)))
        with pytest.raises(ModelLoadError):
            read_purifier(f"file:path={tmp_path / name}")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["fcn", "file", "diffusion"])
def test_a_path_is_asked_for_and_must_exist(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"needs a path: {name}:path="):
        read_purifier(name)
    with pytest.raises(ModelLoadError, match="does not exist; the purifier"):
        read_purifier(f"{name}:path={tmp_path / 'nothing'}")
    wrong = tmp_path / "wrong"
    wrong.mkdir() if name != "diffusion" else wrong.touch()
    with pytest.raises(ModelLoadError, match=r"is a (folder|file); the purifier"):
        read_purifier(f"{name}:path={wrong}")


# Diffusion


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        add_attention=False,
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=100)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("settings", ["step=5", "step=7,stride=3,unsharp=yes"])
@pytest.mark.parametrize("size", [(16, 16), (7, 13)], ids=str)
def test_diffusion_keeps_its_promises(settings: str, size: tuple[int, int], pipeline: Path) -> None:
    purifier, images = read_purifier(f"diffusion:path={pipeline},{settings}"), noisy(2, size)
    before = images.clone()
    purified = purifier(images, seeded())
    assert purified.shape == images.shape
    assert 0 <= purified.min() <= purified.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(purified, purifier(images, seeded()))
    assert not torch.equal(purified, purifier(images, seeded(1)))
    assert purifier.is_random


def test_diffusion_adds_the_noise_that_the_schedule_says(pipeline: Path) -> None:
    """With a network that always predicts the noise it was given, the image comes back."""
    purifier: Any = read_purifier(f"diffusion:path={pipeline},step=40,stride=40")
    images = 0.2 + 0.6 * noisy(2, (16, 16))
    noise = torch.randn(images.shape, generator=seeded(4))

    class Knows(nn.Module):
        def forward(self, noisy_images: Tensor, step: Tensor) -> Any:
            assert int(step) == 39
            return type("Output", (), {"sample": noise})

    purifier.unet = Knows()
    torch.testing.assert_close(purifier(images, seeded(4)), images, atol=1e-4, rtol=0)


def test_diffusion_is_differentiated_only_where_asked(pipeline: Path) -> None:
    plain = read_purifier(f"diffusion:path={pipeline},step=2")
    assert not plain.is_differentiable
    assert not plain(noisy().requires_grad_(), seeded()).requires_grad
    whole = read_purifier(f"diffusion:path={pipeline},step=2,gradient=yes")
    assert whole.is_differentiable
    images = noisy(1, (8, 8)).requires_grad_()
    (gradient,) = torch.autograd.grad(whole(images, seeded()).sum(), images)
    assert gradient.abs().sum() > 0


def test_pipelines_that_may_run_code_are_refused(pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "custom"
    shutil.copytree(pipeline, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["my_unet", "MyUNet"]}))
    with pytest.raises(ModelLoadError, match="others may run code of the folder"):
        read_purifier(f"diffusion:path={folder}")
    (folder / "model_index.json").write_text("[]")
    with pytest.raises(ModelLoadError, match="missing, damaged or names no unet"):
        read_purifier(f"diffusion:path={folder}")


def test_pickled_weights_of_a_pipeline_are_refused(pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(pipeline, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelLoadError, match="safe_serialization=True"):
        read_purifier(f"diffusion:path={folder}")
    weights.write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match="cannot be opened by diffusers"):
        read_purifier(f"diffusion:path={folder}")


def test_diffusion_steps_have_bounds(pipeline: Path) -> None:
    with pytest.raises(UsageError, match=r"step in \[1, 10000\], got 0"):
        read_purifier(f"diffusion:path={pipeline},step=0")
    with pytest.raises(UsageError, match=r"stride in \[1, 5\], got 6"):
        read_purifier(f"diffusion:path={pipeline},step=5,stride=6")
    with pytest.raises(ModelLoadError, match="trained with 100 steps, got step=101"):
        read_purifier(f"diffusion:path={pipeline},step=101")


@pytest.mark.parametrize(("word", "missing", "extra"), [("diffusion", "diffusers", "diffusion"), ("file", "x", "onnx")])
def test_missing_extras_are_named(
    word: str, missing: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"diffusion": "diffusion", "file": "network_file"}[word]
    monkeypatch.setattr(f"iqa_armor.defenses.purifiers.{module}.find_spec", lambda name: None)
    path = tmp_path / "network.onnx"
    path.mkdir() if word == "diffusion" else path.touch()
    with pytest.raises(ArmorError, match=rf"pip install 'iqa-armor\[{extra}\]'"):
        read_purifier(f"{word}:path={path}")
