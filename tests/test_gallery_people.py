"""Networks as people write them, of ../shared/gallery: each does what the line about it there says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from iqa_armor import load_model
from iqa_armor.cli import app

pytestmark = pytest.mark.slow

HARDENED = (
    *("two_scale", "two_scale_avg", "two_scale_sum", "flip_twice", "shuffle", "shuffle_plain", "shuffle_view"),
    *("flip_channels", "flat_nchw", "view_spatial", "squeeze_batch", "slice_", "slice_gate", "chunk_gate", "cat_self"),
    *("mean_std", "gem", "pixel_unshuffle", "fpn", "unet_map", "ghost", "hooked", "sobel", "coord", "fft"),
    *("inplace_index", "plain_tensor", "param_scale", "convnext_block", "patches", "view512", "prelu"),
    *("instance_norm", "instance_norm_stats", "func_bn", "l2pool", "weight_norm_new", "spectral_norm_old", "gru_head"),
    *("group_norm", "ln2d", "sync_bn", "data_parallel", "compiled", "ckpt", "ckpt_training", "bn_momentum_none"),
    *("asserts", "assert_shape", "len_x", "opt_args", "feats_loop", "out_squeeze", "out_1111", "half", "bf16"),
    "double",
)
UNSTEADY = ("cnniqa", "rand_crop", "noise", "bn_no_stats")
OUTPUTS = {"out_dict": "score", "out_tuple": "0", "out_list1": "0", "out_mean_std": "0", "out_bins": "mean"}
REFUSED = {
    "cnniqa_flag": (4, "one stage only"),
    "cnniqa_gray": (4, "gray"),
    "out_batchmean": (3, ""),
    "out_const": (None, "gives 3 for all 48 training images"),
}


def harden(name: str, shared: Path, folder: Path, *more: str) -> tuple[int, dict, str]:
    """Harden a network of the gallery beside its own state dict; return exit code, JSON and messages."""
    source = shared / "gallery" / "networks.py"
    spec = importlib.util.spec_from_file_location("gallery_networks", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    torch.save(getattr(module, name)().state_dict(), folder / "m.pt")
    words = [folder / "m.pt", "--arch", f"{source}:{name}", "--input-size", "64x64", "--epochs", 0, "--json", *more]
    data = ("--data", "synthetic:scenes=6,size=64x64", "-o", folder / "h.safetensors", "--overwrite")
    done = CliRunner().invoke(app, ["harden", *map(str, (*words, *data))])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout) if done.exit_code == 0 else {}, done.stderr


def check_proved(found: dict, folder: Path) -> None:
    assert found["pruned"]["share"] > 0
    for check in found["checks"]:
        assert check["difference"] is None or check["difference"] <= check["tolerance"], check
    assert load_model(folder / "h.safetensors")(torch.rand(2, 3, 64, 64)).shape == (2,)


@pytest.mark.parametrize("name", HARDENED)
def test_it_is_hardened_with_all_proofs(name: str, shared: Path, tmp_path: Path) -> None:
    code, found, told = harden(name, shared, tmp_path)
    assert code == 0, told
    check_proved(found, tmp_path)
    if name == "group_norm":
        assert found["pruned"]["normalized_over_channels"]
    if name == "gru_head":
        assert "GRU" in " ".join(found["pruned"]["stays"].values())


@pytest.mark.parametrize("name", UNSTEADY)
def test_scores_that_change_by_themselves_are_warned_of_once(name: str, shared: Path, tmp_path: Path) -> None:
    _, _, told = harden(name, shared, tmp_path)
    assert told.count("scores of this network are random") == 1, told


@pytest.mark.parametrize("name", OUTPUTS)
def test_output_chooses_and_without_it_the_outputs_are_listed(name: str, shared: Path, tmp_path: Path) -> None:
    code, _, told = harden(name, shared, tmp_path)
    assert code == 3, told
    assert "--output" in told
    code, found, told = harden(name, shared, tmp_path, "--output", OUTPUTS[name])
    assert code == 0, told
    check_proved(found, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_or_its_scores_are_said_to_be_constant(name: str, shared: Path, tmp_path: Path) -> None:
    expected, reason = REFUSED[name]
    code, _, told = harden(name, shared, tmp_path)
    assert expected in (None, code), told
    assert reason in told


def test_every_network_of_the_gallery_has_a_line(shared: Path) -> None:
    text = (shared / "gallery" / "networks.py").read_text(encoding="utf-8")
    made = {line[4:].partition("(")[0] for line in text.splitlines() if line.startswith("def ") and "():" in line}
    assert made == {*HARDENED, *UNSTEADY, *OUTPUTS, *REFUSED}
