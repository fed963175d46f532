"""Transformers: blocks on the grid of their tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import memory_dataset
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from typer.testing import CliRunner

from iqa_armor.artifact.storage import load_artifact
from iqa_armor.cli import app
from iqa_armor.errors import SurgeryError
from iqa_armor.graph.interpret import size_of
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.ortho.block import RobustBlock, TokenBlock
from iqa_armor.pipeline.harden import harden
from iqa_armor.pipeline.inspect import inspect_model
from iqa_armor.recipe import Recipe
from iqa_armor.surgery.stages import choose
from iqa_armor.surgery.tokens import Lineage, TokenGrid, last_tokens, token_grid, token_grids

VIT_FILE = """
from torch import nn
from torchvision.models import VisionTransformer

def vit():
    network = VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=1)
    nn.init.normal_(network.heads.head.weight)
    return network
"""


def vit() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=1)
        nn.init.normal_(network.heads.head.weight)
    return network.eval()


class Patches(nn.Module):
    """A residual unit of tokens without an extra one, on patches that a convolution or a linear layer makes."""

    def __init__(self, *, patch: int = 8, width: int = 12, convolves: bool = True) -> None:
        super().__init__()
        self.patch, self.width = patch, width
        self.embed = nn.Conv2d(3, width, patch, patch) if convolves else nn.Linear(3 * patch**2, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, 1)

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(self.embed, nn.Conv2d):
            tokens = self.embed(images).flatten(2).transpose(1, 2)
        else:
            tokens = self.embed(nn.functional.unfold(images, self.patch, stride=self.patch).transpose(1, 2))
        return self.head((tokens + self.mix(tokens)).mean(1))


def grids_of(network: nn.Module, *size: int) -> list[tuple[str, int, tuple[int, int], int]]:
    found = token_grids(Lineage(trace(network, torch.zeros(1, 3, *size))))
    return [(grid.node, grid.channels, grid.size, grid.extra) for grid in found]


def quality_model(network: nn.Module, size: tuple[int, int]) -> QualityModel:
    return QualityModel(network, Preprocessing(size=size), name="vit").eval()


def test_block_leaves_leading_tokens_alone_and_sees_the_rest_as_maps() -> None:
    block = TokenBlock(6, size=(3, 4), extra=2, backend="aol").eval()
    tokens = torch.randn(2, 14, 6)
    given = block(tokens)
    maps = tokens[:, 2:].reshape(2, 3, 4, 6).permute(0, 3, 1, 2)
    assert torch.equal(given[:, :2], tokens[:, :2])
    torch.testing.assert_close(given[:, 2:].reshape(2, 3, 4, 6).permute(0, 3, 1, 2), block.block(maps))


def test_block_takes_maps_with_their_channels_last() -> None:
    block = TokenBlock(6, size=(3, 4), backend="aoc").eval()
    maps = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(block(maps), block.block(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_on_a_square_grid_nothing_is_lost_without_pooling() -> None:
    block, tokens = TokenBlock(6, size=(4, 4)).eval(), torch.randn(1, 16, 6)
    pooled = RobustBlock(6, pool="square").eval()
    pooled.load_state_dict(block.block.state_dict())
    torch.testing.assert_close(block.block(block.maps(tokens)), pooled(block.maps(tokens)))


@pytest.mark.parametrize("shape", [(1, 13, 6), (1, 14, 5), (1, 4, 3, 6), (14, 6)])
def test_block_refuses_other_tokens(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this TokenBlock takes tokens"):
        TokenBlock(6, size=(3, 4), extra=2)(torch.zeros(shape))


@pytest.mark.parametrize("arguments", [{"size": (0, 2)}, {"size": (2, 2), "extra": -1}])
def test_block_refuses_an_empty_grid(arguments: dict) -> None:
    with pytest.raises(ValueError, match="token grid"):
        TokenBlock(6, **arguments)


def test_torchvision_transformer_has_a_class_token_before_its_grid() -> None:
    grids = grids_of(vit(), 32, 32)
    assert grids == [(f"add_{number}", 32, (4, 4), 1) for number in (1, 2, 3, 4)]


def test_grid_need_not_be_square() -> None:
    assert grids_of(Patches(), 32, 48) == [("add", 12, (4, 6), 0)]


def test_without_a_convolution_equal_patches_tell_the_grid() -> None:
    assert grids_of(Patches(convolves=False), 24, 40) == [("add", 12, (3, 5), 0)]


@pytest.mark.parametrize(("patch", "size", "reason"), [(6, 24, "several grids fit"), (24, 24, "no grid")])
def test_grid_that_cannot_be_told_is_refused(patch: int, size: int, reason: str) -> None:
    traced = trace(Patches(patch=patch, convolves=False), torch.zeros(1, 3, size, size))
    with pytest.raises(SurgeryError, match=reason):
        choose(traced, "add")


def test_channels_before_places_are_refused_by_name() -> None:
    with pytest.raises(SurgeryError, match="channels before its places"):
        choose(trace(Patches(), torch.zeros(1, 3, 32, 48)), "flatten")


def test_tensor_that_is_neither_map_nor_tokens_is_refused() -> None:
    traced = trace(vit(), torch.zeros(1, 3, 32, 32))
    with pytest.raises(SurgeryError, match=r"its tokens are add_1, add_2, add_3, add_4"):
        choose(traced, "heads_head")
    with pytest.raises(SurgeryError, match="no node or module"):
        choose(traced, "blocks.9")


def test_last_position_of_a_transformer_is_before_its_last_quarter() -> None:
    traced = trace(vit(), torch.zeros(1, 3, 32, 32))
    assert [node.name for node in choose(traced, "last")] == ["add_2"]  # of two blocks, the last


@pytest.mark.parametrize(
    ("grids", "chosen"),
    [
        ([("0", 8), ("0", 8), ("1", 4), ("1", 4)], 1),  # the grid shrinks once
        ([("0", 8), ("1", 4), ("2", 4), ("3", 2), ("3", 2)], 2),
        ([(str(block // 2), 4) for block in range(24)], 17),  # three of twelve blocks behind it
        ([("", 4)] * 24, 17),  # read from a file, without modules
        ([("0", 4), ("1", 4)], 0),
    ],
)
def test_last_tokens(grids: list[tuple[str, int]], chosen: int) -> None:
    made = [TokenGrid(f"node{i}", module, 16, (side, side), 0) for i, (module, side) in enumerate(grids)]
    assert last_tokens(made) is made[chosen]


def test_module_name_stands_for_its_last_tokens() -> None:
    traced = trace(vit(), torch.zeros(1, 3, 32, 32))
    (node,) = choose(traced, "encoder.layers.encoder_layer_0")
    assert node.name == "add_2"
    assert size_of(node) == (1, 17, 32)


def test_attention_mask_and_sizes_do_not_hide_what_everything_passes() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=1, img_size=64, depth=2)
    assert grids_of(network, 64, 64) == [(f"add_{number}", 192, (4, 4), 1) for number in (1, 2, 3, 4)]


def test_windowed_transformer_has_maps_with_their_channels_last() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", pretrained=False, num_classes=1, img_size=64, window_size=4, depths=(1, 1),
        embed_dim=24, num_heads=(2, 2)
    )  # fmt: skip
    traced = trace(network, torch.zeros(1, 3, 64, 64))
    assert [(grid.channels, grid.size) for grid in token_grids(Lineage(traced))] == [(24, (16, 16))] * 2 + [
        (48, (8, 8))
    ]


def test_maps_of_convolutions_are_no_tokens() -> None:
    traced = trace(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1)), torch.zeros(1, 3, 8, 8)
    )
    assert all(token_grid(Lineage(traced), node) is None for node in traced.graph.nodes if node.op == "call_module")


@pytest.mark.parametrize(("backend", "init"), [("cayley", "identity"), ("aoc", "random"), ("aol", "identity")])
def test_hardened_transformer_reloads_with_the_same_scores(backend: str, init: str, tmp_path: Path) -> None:
    model = quality_model(vit(), (32, 32))
    result = harden(
        model,
        memory_dataset(training=8),
        Recipe(position="add_3", backend=backend, init=init, prune=0, epochs=0),
    )
    assert [(block.node, block.channels, block.size) for block in result.blocks] == [("add_3", 32, (4, 4))]
    result.save(tmp_path / "hardened.safetensors")
    opened, images = load_artifact(tmp_path / "hardened.safetensors"), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(opened(images), result.model(images), rtol=1e-6, atol=1e-7)
    (spectrum,) = inspect_model(opened).spectra
    assert (spectrum.channels, spectrum.size) == (32, (4, 4))


def test_identity_keeps_what_the_principal_directions_span() -> None:
    network = Patches(width=12)
    with torch.no_grad():  # tokens of rank 4, so that half of 12 channels hold all of them
        network.embed.weight.copy_((torch.randn(12, 4) @ network.embed.weight[:4].flatten(1)).view(12, 3, 8, 8))
        network.embed.bias.zero_()
        network.mix.weight.zero_()
        network.mix.bias.zero_()
    model = quality_model(network, (32, 48))
    result = harden(
        model, memory_dataset(training=8), Recipe(position="add", init="identity", prune=0, pool="none", epochs=0)
    )
    images = torch.rand(2, 3, 32, 48)
    with torch.inference_mode():
        torch.testing.assert_close(result.model(images), model(images), rtol=1e-4, atol=1e-4)


def test_square_pooling_of_other_grids_is_refused() -> None:
    with pytest.raises(SurgeryError, match="--pool none"):
        harden(
            quality_model(Patches(), (32, 48)),
            memory_dataset(training=8),
            Recipe(position="add", prune=0, epochs=0),
        )


def test_a_transformer_loses_widths_of_its_mlps() -> None:
    pruned = harden(quality_model(vit(), (32, 32)), memory_dataset(training=8), Recipe(epochs=0)).pruned
    assert pruned is not None
    assert {name.rpartition(".")[2] for name in pruned.kept} == {"0"}  # the first layers of MLPs
    assert pruned.parameters[1] < pruned.parameters[0]


def test_pruning_behind_a_block_is_refused() -> None:
    once = harden(
        quality_model(vit(), (32, 32)), memory_dataset(training=8), Recipe(position="add_3", prune=0, epochs=0)
    )
    with pytest.raises(SurgeryError, match="already holds"):
        harden(once.model, memory_dataset(training=8), Recipe(position="add_2", epochs=0))


@pytest.fixture
def vit_files(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "nets.py").write_text(VIT_FILE)
    torch.save(vit().state_dict(), tmp_path / "vit.pt")
    return str(tmp_path / "vit.pt"), "--arch", f"{tmp_path / 'nets.py'}:vit", "--input-size", "32x32"


def test_command_line_hardens_and_exports_a_transformer(
    vit_files: tuple[str, ...], image_folder: Path, tmp_path: Path
) -> None:
    out, data = tmp_path / "hard.safetensors", ("--data", f"csv:{image_folder / 'labels.csv'}")
    runner = CliRunner()
    done = runner.invoke(
        app,
        ["harden", *vit_files, *data, "--epochs", "0", "-o", str(out), "--position", "add_4", "--prune", "0"],
    )
    assert done.exit_code == 0, done.output
    assert "behind add_4 (32 channels, 4x4)" in done.output
    exported = runner.invoke(app, ["export", str(out), "-o", str(tmp_path / "hard.pt2")])
    assert exported.exit_code == 0, exported.output
    assert (tmp_path / "hard.pt2").is_file()


def test_inspect_lists_tokens(vit_files: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["inspect", *vit_files])
    assert done.exit_code == 0, done.output
    assert "encoder_layer_1" in done.output
    assert "4x4" in done.output
    plain = json.loads(CliRunner().invoke(app, ["inspect", *vit_files, "--json"]).stdout)
    assert plain["recommended"] == ["add_2"]
    assert [grid["node"] for grid in plain["grids"]] == ["add_1", "add_2", "add_3", "add_4"]


class TokensFirst(nn.Module):
    """A transformer as torch.nn makes it by default, tokens before images, on one crop of an image or several."""

    def __init__(self, crops: int) -> None:
        super().__init__()
        self.crops, self.gain = crops, nn.Buffer(torch.ones(1, dtype=torch.float64))
        self.embed, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 1)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 4, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        crops = images.repeat(1, self.crops, 1, 1).view(-1, *images.shape[1:])
        tokens = self.embed(crops).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([self.token.expand(-1, tokens.shape[1], -1), tokens])
        return self.head(self.layers(tokens)[0]).view(-1, self.crops).mean(1) * self.gain.to(images)


@pytest.mark.parametrize("crops", [1, 3])
def test_tokens_that_stand_before_the_images_are_turned_for_the_block(crops: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = TokensFirst(crops).eval(), torch.rand(3, 3, 32, 32)
    traced = trace(network, images[:1])
    (cut,) = choose(traced, "last")
    assert size_of(cut) == (crops, 17, 16)
    assert [node.target for node in traced.graph.nodes].count("transpose") == 2  # there and back
    torch.testing.assert_close(traced(images), network(images))
    result = harden(quality_model(network, (32, 32)), memory_dataset(training=8), Recipe(epochs=0, calibration=4))
    result.save(tmp_path / "turned.safetensors")
    (block,) = (layer for layer in result.model.modules() if isinstance(layer, TokenBlock))
    assert (block.size, block.extra) == ((4, 4), 1)
    with torch.no_grad():
        assert torch.equal(load_artifact(tmp_path / "turned.safetensors")(images), result.model(images))
