"""Networks from files cannot take the process that asks along: they run in one of their own, within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_purifiers_stored import Soften, edited, replaced, write_pt2
from torch import Tensor, nn

from iqa_armor.defenses.base import read_purifier
from iqa_armor.defenses.purifiers import hosted, network_file
from iqa_armor.defenses.purifiers.archive import _is_operator
from iqa_armor.errors import ModelLoadError

UNCHECKED = """
_sparse_coo_tensor_unsafe.default _sparse_csr_tensor_unsafe.default _coalesced_.default as_strided.default
as_strided_scatter.default set_.source_Tensor resize_.default resize_as_.default empty_strided.default from_file.default
_unsafe_index.Tensor _index_put_impl_.default quantize_per_tensor.default _make_per_tensor_quantized_tensor.default
_native_batch_norm_legit_no_training.default _embedding_bag.default _fused_adam_.default _cudnn_rnn.default
_reinterpret_tensor.default _local_scalar_dense.default add.out add.Scalar_out max.dim_max sort.values median.dim_values
add.overloads add.op add.__call__ add.nothing empty_like.default rand_like.default
_scaled_dot_product_flash_attention_for_cpu.default
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pt2(tmp_path_factory.mktemp("networks") / "soften.pt2", Soften())


@pytest.mark.parametrize("name", UNCHECKED.split())
def test_operators_that_trust_their_arguments_are_not_allowed(name: str) -> None:
    assert not _is_operator(f"torch.ops.aten.{name}")


def test_the_operators_of_usual_networks_are_allowed(tmp_path: Path) -> None:
    class Usual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
            self.middle = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), nn.SiLU())
            self.up = nn.Sequential(nn.ConvTranspose2d(8, 3, 2, 2), nn.Sigmoid())

        def forward(self, images: Tensor) -> Tensor:
            found = self.down(images)
            attended = found * torch.softmax(self.middle(found).mean((2, 3), keepdim=True), 1)
            return self.up(found + attended)

    network = Usual().eval()
    purifier = read_purifier(f"file:path={write_pt2(tmp_path / 'usual.pt2', network)}")
    images = torch.rand(2, 3, 16, 24)
    torch.testing.assert_close(purifier(images, torch.Generator()), network(images))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("conv2d.default", "_sparse_coo_tensor_unsafe.default", "target 'torch.ops.aten._sparse_coo_tensor_unsafe"),
        ('"as_int": 1}', '"as_int": 4611686018427387904}', "the number 4611686018427387904"),
        ('"as_ints": [1, 1, 1, 1]', f'"as_ints": {[1] * 5000}', "a list of 5000 arguments"),
    ],
)
def test_arguments_are_checked_before_anything_is_called(
    old: str, new: str, said: str, exported: Path, tmp_path: Path
) -> None:
    path = edited(exported, tmp_path / "hostile.pt2", replaced("models/", old, new))
    with pytest.raises(ModelLoadError, match="was not opened, because") as caught:
        read_purifier(f"file:path={path}")
    assert said in str(caught.value)


class Hungry(Soften):
    def forward(self, images: Tensor) -> Tensor:
        grown = nn.functional.interpolate(images, scale_factor=512.0)
        return super().forward(images) + grown.mean((2, 3), keepdim=True) * 0


class Counting(Soften):
    """Says another thing each time it is asked, by a buffer, or by a view of one."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, images: Tensor) -> Tensor:
        self.change(self.seen)
        return super().forward(images) + self.seen.mean()


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pt2(tmp_path / "hungry.pt2", Hungry())
    monkeypatch.setenv("IQA_ARMOR_MAX_MEMORY", str(2**31))
    network_file.worker("cpu").close()  # the next one is told the limit
    with pytest.raises(ModelLoadError, match="more memory than --max-memory allows"):
        read_purifier(f"file:path={path}")
    network_file.worker("cpu").close()


@pytest.mark.parametrize(
    "change", [lambda seen: seen.add_(0.1), lambda seen: seen[1:].mul_(1.5).add_(1)], ids=["buffer", "view"]
)
def test_a_network_that_counts_is_refused(change: Callable[[Tensor], Any], tmp_path: Path) -> None:
    path = write_pt2(tmp_path / "counting.pt2", Counting(change))
    with pytest.raises(ModelLoadError, match="changes its own weights or buffers"):
        read_purifier(f"file:path={path}")


def endless_onnx(path: Path) -> Path:
    """Write images + 0 · (a loop whose condition stays true)."""
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto
    inside = make.make_graph(
        [make.make_node("Identity", ["c"], ["c2"]), make.make_node("Abs", ["v"], ["v2"])],
        "body",
        [make.make_tensor_value_info(name, form, []) for name, form in (("i", kind.INT64), ("c", kind.BOOL))]
        + [make.make_tensor_value_info("v", kind.FLOAT, [1])],
        [make.make_tensor_value_info("c2", kind.BOOL, []), make.make_tensor_value_info("v2", kind.FLOAT, [1])],
    )
    nodes = [
        make.make_node("Loop", ["", "on", "zero"], ["last"], body=inside),
        make.make_node("Add", ["images", "last"], ["purified"]),
    ]
    stored = [make.make_tensor("on", kind.BOOL, [], [True]), make.make_tensor("zero", kind.FLOAT, [1], [0.0])]
    sides = ["n", 3, "h", "w"]
    inputs, outputs = ([make.make_tensor_value_info(name, kind.FLOAT, sides)] for name in ("images", "purified"))
    model = make.make_model(
        make.make_graph(nodes, "endless", inputs, outputs, stored), opset_imports=[make.make_opsetid("", 17)]
    )
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def test_a_loop_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    path = endless_onnx(tmp_path / "endless.onnx")
    monkeypatch.setattr(network_file, "SECONDS", 3.0)
    started = time.perf_counter()
    with pytest.raises(ModelLoadError, match="takes longer than 3 s"):
        read_purifier(f"file:path={path}")
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04", b"\x08" * 99], ids=repr)
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_damaged_files_are_one_sentence(suffix: str, content: bytes, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=str(path)) as caught:
        read_purifier(f"file:path={path}")
    assert "\n" not in str(caught.value)


def test_a_file_that_changed_is_refused(exported: Path) -> None:
    with pytest.raises(ModelLoadError, match="has changed since it was opened"):
        hosted.describe((str(exported), "0" * 64, "cpu", 1), b"")
