"""Exported files: they score as the model does, say what they accept, and run without torch."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import small_network
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet
from typer.testing import CliRunner

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.cli import app
from iqa_armor.data.scenes import render_scene
from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.export import FORMATS, capture
from iqa_armor.export.write import Exported, compare, export_model, natural_batches
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.plain import SquarePool, wrapped

SUFFIXES = (".onnx", ".pt2", ".xml")
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["iqa_armor"] = None
import json
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
size = json.loads(session.get_modelmeta().custom_metadata_map["iqa_armor"])["preprocessing"]["size"]
image = numpy.load(sys.argv[2])
assert list(image.shape) == [*size, 3]
images = (image.astype("float32") / 255).transpose(2, 0, 1)[None]
print(float(session.run(["scores"], {"images": images})[0][0]))
"""


def hardened(backend: str, *, size: tuple[int, int] | None = (32, 40), pool: str = "square") -> QualityModel:
    """Return a small network with a block whose bias and statistics are not those of a fresh one."""
    layers = list(small_network())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        block = RobustBlock(24, backend=backend, pool=pool)
        nn.init.normal_(block.orthogonal.bias)
        network = nn.Sequential(*layers[:6], block, *layers[6:])
        network.train()(torch.randn(8, 3, 32, 40))
    preprocessing = Preprocessing(size=size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return QualityModel(network.eval(), preprocessing, scale=ScoreScale(-0.5, 0.5), name="small").eval()


def hardened_resnet(backend: str, blocks: int) -> QualityModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = ResNet(BasicBlock, [blocks] * 4, num_classes=1)
        network.layer3 = nn.Sequential(network.layer3, RobustBlock(256, backend=backend))
    return QualityModel(network, Preprocessing(size=(64, 80)), name="resnet").eval()


def images_of(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def opened(path: Path) -> Callable[[Tensor], Tensor]:
    return FORMATS[path.suffix[1:]].read(path)[1]


def assert_same_scores(path: Path, model: QualityModel, *shapes: tuple[int, ...]) -> None:
    score = opened(path)
    for shape in shapes:
        images = images_of(*shape)
        with torch.no_grad():
            torch.testing.assert_close(score(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    """Return the export of the small network for a backend and a suffix, made once."""
    folder = tmp_path_factory.mktemp("exports")
    made: dict[tuple[str, str], Exported] = {}

    def export(backend: str, suffix: str) -> Exported:
        if (backend, suffix) not in made:
            with pytest.MonkeyPatch.context() as patch:
                if suffix == ".xml":
                    patch.setattr("iqa_armor.export.onnx.write", copying(export(backend, ".onnx").path))
                made[backend, suffix] = export_model(hardened(backend), folder / f"{backend}{suffix}")
        return made[backend, suffix]

    return export


def copying(file: Path) -> Callable[[object, Path, str], object]:
    """Return what writes the ONNX file that OpenVINO's is made of, of one that is there."""
    return lambda captured, path, metadata: shutil.copy(file, path)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (7, 6), (5, 8)])
@pytest.mark.parametrize("pool", ["square", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_plain_block_computes_what_the_block_does(backend: str, pool: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = RobustBlock(11, backend=backend, pool=pool).eval()
    nn.init.normal_(block.orthogonal.bias)
    maps = torch.randn(3, 11, *size)
    reached = (min(size), min(size)) if pool == "square" else size
    with torch.no_grad():
        torch.testing.assert_close(block.plain(reached)(maps), block(maps), rtol=0, atol=5e-6)


def test_plain_cayley_is_exact_in_float64_and_serves_square_operators() -> None:
    torch.manual_seed(0)
    layer = BACKENDS["cayley"](5, 5).double().eval()
    maps = torch.randn(2, 5, 6, 9, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer.plain((6, 9))(maps), layer(maps), rtol=0, atol=1e-12)


def test_wrapped_is_circular_padding() -> None:
    maps = images_of(2, 3, 4, 5)
    assert torch.equal(wrapped(maps, 2), functional.pad(maps, (2, 2, 2, 2), mode="circular"))
    assert wrapped(maps, 0) is maps


@pytest.mark.parametrize("size", [(32, 42), (5, 3), (1, 7), (6, 6)])
def test_square_pool_is_adaptive_pooling(size: tuple[int, int]) -> None:
    maps = images_of(2, 3, *size)
    torch.testing.assert_close(SquarePool()(maps), functional.adaptive_avg_pool2d(maps, min(size)))


@pytest.mark.parametrize(("backend", "suffix"), [("aoc", ".onnx"), ("aoc", ".pt2"), ("aol", ".xml")])
def test_folded_backends_export_for_any_batch_and_size(exports, backend: str, suffix: str) -> None:
    model, exported = hardened(backend), exports(backend, suffix)
    assert exported.size == (None, None)
    assert exported.fixed_because == ""
    assert len(exported.check.sizes) > 2
    assert exported.size_bytes == sum(
        path.stat().st_size
        for path in exported.path.parent.glob(f"{backend}.*")
        if path.suffix in (suffix, ".bin" if suffix == ".xml" else suffix)
    )
    assert_same_scores(exported.path, model, (1, 3, 32, 40), (7, 3, 32, 40), (2, 3, 51, 37), (1, 3, 96, 128))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cayley_exports_for_one_size_and_any_batch(exports, suffix: str) -> None:
    model, exported = hardened("cayley"), exports("cayley", suffix)
    assert exported.size == (32, 40)
    assert "Cayley" in exported.fixed_because
    assert_same_scores(exported.path, model, (1, 3, 32, 40), (6, 3, 32, 40))
    with pytest.raises(ArmorError, match="fails on images"):
        opened(exported.path)(images_of(1, 3, 40, 32))


def test_cayley_without_pooling_exports_too(tmp_path: Path) -> None:
    model = hardened("cayley", pool="none")
    assert_same_scores(export_model(model, tmp_path / "out.pt2").path, model, (3, 3, 32, 40))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("backend", "blocks", "suffixes"),
    [("cayley", 1, [".onnx"]), *(pytest.param(name, 2, SUFFIXES, marks=SLOW) for name in BACKENDS)],
)
def test_hardened_resnet_gives_its_scores_in_its_formats(
    backend: str, blocks: int, suffixes: list[str], tmp_path: Path
) -> None:
    model = hardened_resnet(backend, blocks)
    for suffix in suffixes:
        exported = export_model(model, tmp_path / f"out{suffix}")
        assert exported.check.share_of_range < 1e-4
        assert_same_scores(exported.path, model, (1, 3, 64, 80), (3, 3, 64, 80))


def test_model_of_any_image_size_exports_as_such(tmp_path: Path) -> None:
    model = hardened("aol", size=None)
    exported = export_model(model, tmp_path / "out.pt2")
    assert exported.size == (None, None)
    assert_same_scores(exported.path, model, (1, 3, 33, 65))


def test_cayley_without_a_recorded_size_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(ArmorError, match=r"one image size only .*--input-size"):
        export_model(hardened("cayley", size=None), tmp_path / "out.pt2")
    assert list(tmp_path.iterdir()) == []


def test_network_of_one_size_exports_for_it_and_says_why(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Flatten(), nn.Linear(4 * 8 * 10, 1))
    model = QualityModel(network, Preprocessing(size=(32, 40))).eval()
    exported = export_model(model, tmp_path / "out.pt2")
    assert exported.size == (32, 40)
    assert exported.fixed_because != ""
    assert exported.check.range_measured_here
    assert_same_scores(exported.path, model, (4, 3, 32, 40))


def test_the_model_is_left_untouched(tmp_path: Path) -> None:
    model = hardened("cayley").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    export_model(model, tmp_path / "out.pt2")
    assert model.training
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt2", ".xml"])  # ONNX is what .xml is made from
def test_wrong_export_leaves_nothing_under_the_name(
    exports, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".xml":
        monkeypatch.setattr("iqa_armor.export.onnx.write", copying(exports("aoc", ".onnx").path))
    monkeypatch.setattr("iqa_armor.ortho.plain.wrapped", lambda maps, margin: functional.pad(maps, (margin,) * 4))
    with pytest.raises(ArmorError, match=r"scores differently: up to .* of the score range"):
        export_model(hardened("cayley"), tmp_path / f"out{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_wrong_export_keeps_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lying = dataclasses.replace(FORMATS["pt2"], read=lambda _: ("{}", lambda images: images))
    monkeypatch.setitem(FORMATS._made, "pt2", lying)
    (tmp_path / "out.pt2").write_text("before")
    with pytest.raises(ArmorError, match="metadata"):
        export_model(hardened("cayley"), tmp_path / "out.pt2")
    assert (tmp_path / "out.pt2").read_text() == "before"


def test_what_other_threads_print_meanwhile_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with capture.quiet():
        sys.stdout.write("an exporter")
        other = threading.Thread(target=lambda: sys.stdout.write("a service, "))
        other.start()
        other.join()
    sys.stdout.write("afterwards")
    assert capsys.readouterr().out == "a service, afterwards"


def test_comparison_refuses_a_nan_and_a_wrong_shape() -> None:
    model, batches = hardened("aoc"), natural_batches([(32, 40)])
    with pytest.raises(ArmorError, match="scores differently: up to nan"):
        compare(model, lambda images: torch.full((len(images),), float("nan")), batches)
    with pytest.raises(ArmorError, match="gave scores"):
        compare(model, lambda images: torch.zeros(len(images), 1), batches)


def test_comparison_images_are_natural_and_differ() -> None:
    batches = natural_batches([(32, 40), (40, 32)])
    assert [tuple(images.shape) for images in batches] == [
        (1, 3, 32, 40),
        (2, 3, 32, 40),
        (5, 3, 32, 40),
        (2, 3, 40, 32),
    ]
    images = batches[2]
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert float(images.mean((1, 2, 3)).std()) > 0.02


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_say_what_the_file_takes(exports, suffix: str) -> None:
    found = json.loads(FORMATS[suffix[1:]].read(exports("cayley", suffix).path)[0])
    assert found["input"]["shape"] == ["batch", 3, 32, 40]
    assert found["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert found["preprocessing"]["interpolation"] == "bilinear"
    assert found["score_range"] == [-0.5, 0.5]
    assert found["higher_is_better"] is True


def test_onnx_axes_have_names(exports) -> None:
    session = onnxruntime.InferenceSession(exports("aoc", ".onnx").path)
    (given,), (scores,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("images", ["batch", 3, "height", "width"])
    assert (scores.name, scores.shape) == ("scores", ["batch"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_process_without_torch_scores_an_image(exports, backend: str, tmp_path: Path) -> None:
    model = hardened(backend)
    image = render_scene(np.random.default_rng(5), 32, 40)
    np.save(tmp_path / "image.npy", image)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(exports(backend, ".onnx").path), str(tmp_path / "image.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = float(model(model.prepare(torch.from_numpy(image).permute(2, 0, 1)).unsqueeze(0)))
    assert float(done.stdout) == pytest.approx(expected, abs=1e-5)


def test_unknown_suffix_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"OUT\.onnx or OUT\.xml or OUT\.pt2"):
        export_model(hardened("aoc"), tmp_path / "out.tflite")


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ArmorError, match=r"takes onnxscript, .*pip install 'iqa-armor\[onnx\]'"):
        export_model(hardened("aoc"), tmp_path / "out.onnx")
    assert capture.format_of(tmp_path / "out.pt2").name == "torch.export"


def test_weights_beyond_an_onnx_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iqa_armor.export.onnx.LIMIT", 1000)
    with pytest.raises(ArmorError, match=r"at most 2 GiB .* \.pt2"):
        export_model(hardened("cayley"), tmp_path / "out.onnx")


def test_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArmorError, match="cannot write"):
        export_model(hardened("cayley"), tmp_path / "nowhere" / "out.pt2")


def run(*arguments: object):
    return CliRunner().invoke(app, ["export", *(str(argument) for argument in arguments)])


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_artifact(hardened("cayley"), path, recipe={}, provenance={})
    return path


def test_command_says_what_the_file_accepts(artifact: Path) -> None:
    target = artifact.with_name("out.onnx")
    done = run(artifact, "-o", target)
    assert done.exit_code == 0, done.stderr
    assert "images (N, 3, 32, 40)" in done.stdout
    assert "one map size" in done.stdout
    assert f"wrote {target}" in done.stdout
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["model.safetensors", "out.onnx"]


def test_openvino_keeps_its_weights_beside_and_replaces_neither_unasked(
    exports, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iqa_armor.export.onnx.write", copying(exports("cayley", ".onnx").path))
    target, weights = artifact.with_name("out.xml"), artifact.with_name("out.bin")
    weights.write_text("mine")
    refused = run(artifact, "-o", target)
    assert refused.exit_code == 2
    assert "out.bin" in refused.stderr.replace("\n", "")
    assert weights.read_text() == "mine"
    done = run(artifact, "-o", target, "--overwrite", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == target.stat().st_size + weights.stat().st_size
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["model.safetensors", "out.bin", "out.xml"]


def test_json_of_the_command_is_all_of_stdout(artifact: Path) -> None:
    done = run(artifact, "-o", artifact.with_name("out.pt2"), "--input-size", "48x40", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kind"] == "torch.export"
    assert found["metadata"]["input"]["shape"] == ["batch", 3, 48, 40]
    assert found["check"]["share_of_range"] < 1e-3
    assert found["bytes"] == artifact.with_name("out.pt2").stat().st_size


@pytest.mark.parametrize(
    ("target", "message"),
    [("out.tflite", "OUT.onnx or OUT.xml or OUT.pt2"), ("folder.pt2", "is a folder")],
)
def test_targets_that_cannot_be_are_usage_errors(artifact: Path, target: str, message: str) -> None:
    artifact.with_name("folder.pt2").mkdir()
    done = run(artifact, "-o", artifact.parent / target)
    assert done.exit_code == 2
    assert message in done.stderr.replace("\n", " ")
