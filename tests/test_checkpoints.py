"""Other people's checkpoint files: opened without running code, refused by name, matched to an architecture."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from iqa_armor.errors import ModelLoadError
from iqa_armor.models.checkpoints import read_state
from iqa_armor.models.weights import load_matching, load_strict, match_architecture


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 1))


def other_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 1))


def state_of(path: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    state = read_state(path, trust_pickle=trust_pickle)
    assert isinstance(state, dict)
    return state


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


WEIGHTS: OrderedDict[str, Tensor] = network().state_dict()
PREFIXED = {f"module.{name}": value for name, value in WEIGHTS.items()}
STATE = {"step": torch.tensor(3)}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".ckpt", ".th", ".safetensors"])
def test_every_suffix_opens(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(dict(WEIGHTS), path)
        assert state_of(path).keys() == WEIGHTS.keys()
    else:
        torch.save(WEIGHTS, path)
        assert equal(state_of(path), WEIGHTS)


@pytest.mark.parametrize(
    "stored",
    [
        {"state_dict": WEIGHTS, "optimizer": {"state": {}, "lr": 0.1}, "epoch": 7},
        {"model": dict(WEIGHTS), "args": ["a", 1]},
        {"params": WEIGHTS},
        {"net": PREFIXED, "epoch": 1},
        {"model_state_dict": WEIGHTS, "loss": 0.5},
        {"params": other_network().state_dict(), "params_ema": WEIGHTS},
        {"model": {"state_dict": PREFIXED}, "optimizer": {"state": {0: STATE}}},
        PREFIXED,
    ],
)
def test_nested_and_prefixed_weights_are_found(stored: object, tmp_path: Path) -> None:
    torch.save(stored, tmp_path / "m.pt")
    assert equal(state_of(tmp_path / "m.pt"), WEIGHTS)


def test_only_a_prefix_that_all_names_carry_is_taken_off(tmp_path: Path) -> None:
    stored = {"module.weight": torch.ones(1), "a.module.weight": torch.ones(1)}
    torch.save(stored, tmp_path / "m.pt")
    assert list(state_of(tmp_path / "m.pt")) == list(stored)


def test_legacy_torch_files_open(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert equal(state_of(tmp_path / "old.pth"), WEIGHTS)


def test_weights_saved_on_cuda_open_on_the_cpu(tmp_path: Path) -> None:
    # The only trace of the device in a file is the storage's location tag, replaced here by another of equal length.
    path = tmp_path / "m.pt"
    torch.save({"weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    tag = b"X\x03\x00\x00\x00cpu"
    assert tag in content
    path.write_bytes(content.replace(tag, b"X\x06\x00\x00\x00cuda:0"))
    weight = state_of(path)["weight"]
    assert weight.device.type == "cpu"
    assert torch.equal(weight, torch.ones(3))


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def save_plain(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def save_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, save_legacy, save_plain])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    save: Callable[[object, Path], None], tmp_path: Path
) -> None:
    path, touched = tmp_path / "m.pt", tmp_path / "executed"
    save({"state_dict": WEIGHTS, "extra": Touch(touched)}, path)
    with pytest.raises(ModelLoadError, match=r"would run its author's code.*--trust-pickle") as caught:
        read_state(path)
    assert caught.value.exit_code == 3
    assert not touched.exists()
    assert equal(state_of(path, trust_pickle=True), WEIGHTS)
    assert touched.exists()


def test_a_whole_pickled_module_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"model": network(), "epoch": 3}, path)
    with pytest.raises(ModelLoadError, match=r"asks for torch\.nn\.modules.*--trust-pickle"):
        read_state(path)
    assert isinstance(read_state(path, trust_pickle=True), nn.Sequential)


def test_a_module_whose_source_is_missing_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x02cabsent_package\nNetwork\n.")
    with pytest.raises(ModelLoadError, match=r"needs its author's source code.*absent_package"):
        read_state(path, trust_pickle=True)


def zipped(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


CORRUPT: dict[str, tuple[str, bytes, str]] = {
    "empty": ("m.pt", b"", "is empty"),
    "text": ("m.pt", b"<html>404</html>", "neither a torch archive nor a pickle"),
    "git-lfs pointer": ("m.pth", b"version https://git-lfs.github.com/spec/v1\n", "neither a torch archive"),
    "truncated": ("m.pt", torch_bytes(WEIGHTS)[:-300], "truncated or damaged"),
    "truncated early": ("m.pt", torch_bytes(WEIGHTS)[:30], "truncated or damaged"),
    "other archive": ("m.pt", zipped(["a/readme.txt"]), "no torch checkpoint"),
    "broken pickle in an archive": ("m.pt", zipped(["a/data.pkl", "a/version"]), "truncated, damaged or no checkpoint"),
    "torchscript": ("m.pt", zipped(["a/constants.pkl", "a/data.pkl", "a/code/x.py"]), "TorchScript"),
    "onnx": ("m.onnx", b"\x08\x07", "an exported graph"),
    "image": ("m.png", b"\x89PNG", "of an unknown kind"),
    "safetensors of text": ("m.safetensors", b"not a safetensors file", "damaged or no safetensors"),
    "safetensors of a huge header": ("m.safetensors", b"\xff" * 64, "damaged or no safetensors"),
    "list": ("m.pt", torch_bytes([1, 2]), "holds a list"),
    "single tensor": ("m.pt", torch_bytes(torch.ones(3)), "holds a Tensor"),
    "no weights": ("m.pt", torch_bytes({"epoch": 3, "lr": 0.1}), "no weights.*it holds epoch, lr"),
    "empty state": ("m.pt", torch_bytes({}), "no weights"),
    "mixed": ("m.pt", torch_bytes({**WEIGHTS, "epoch": 3}), "entries that are none: epoch"),
    "numbered": ("m.pt", torch_bytes({0: torch.ones(1)}), "entries that are none: 0"),
    "meta": ("m.pt", torch_bytes({"a": torch.ones(3, device="meta")}), "entries that are none: a"),
    "expanded": ("m.pt", torch_bytes({"a": torch.ones(1).expand(10**6, 10**6)}), "entries that are none: a"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_what_is_no_checkpoint_is_refused_by_name(name: str, tmp_path: Path) -> None:
    file, content, message = CORRUPT[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelLoadError, match=message) as caught:
        read_state(tmp_path / file)
    assert file in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for save in (torch.save, save_legacy):
        save(WEIGHTS, tmp_path / "whole.pt")
        content = (tmp_path / "whole.pt").read_bytes()
        for length in range(0, len(content) - 1, len(content) // 40):
            (tmp_path / "m.pt").write_bytes(content[:length])
            with pytest.raises(ModelLoadError):
                read_state(tmp_path / "m.pt")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no model file .*absent\.pt"):
        read_state(tmp_path / "absent.pt")
    with pytest.raises(ModelLoadError, match="is a folder"):
        read_state(tmp_path)


def test_weights_that_are_not_finite_are_listed(tmp_path: Path) -> None:
    state = {**WEIGHTS, "0.bias": torch.full((4,), float("nan")), "2.bias": torch.tensor([float("inf")])}
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ModelLoadError, match=r"NaN or infinite weights in 0\.bias, 2\.bias"):
        read_state(tmp_path / "m.pt")


def test_load_strict_loads_exactly_the_networks_weights() -> None:
    target = network()
    load_strict(target, WEIGHTS, source="m.pt")
    assert equal(target.state_dict(), WEIGHTS)


@pytest.mark.parametrize("prefix", ["model.", "net.", "_orig_mod.", "model.module."])
def test_a_wrappers_prefix_is_taken_off_where_needed(prefix: str) -> None:
    target = network()
    load_strict(target, {f"{prefix}{name}": value for name, value in WEIGHTS.items()}, source="m.pt")
    assert equal(target.state_dict(), WEIGHTS)


def test_a_prefix_that_belongs_to_the_network_is_kept() -> None:
    target = nn.ModuleDict({"model": network()})
    load_strict(target, {f"model.{name}": value for name, value in WEIGHTS.items()}, source="m.pt")
    assert equal(target["model"].state_dict(), WEIGHTS)


def test_old_checkpoints_without_batch_counters_load() -> None:
    old = {name: value for name, value in WEIGHTS.items() if not name.endswith("num_batches_tracked")}
    load_strict(network(), old, source="m.pt")
    assert match_architecture(old, {"a": network, "b": other_network}) == "a"


def test_wrong_weights_are_listed_and_leave_the_network_alone() -> None:
    target = nn.Sequential(*(nn.Linear(2, 2) for _ in range(8)))
    before = {name: value.clone() for name, value in target.state_dict().items()}
    wrong = {"0.weight": torch.ones(3, 3), "0.bias": torch.zeros(2), "extra": torch.ones(1)}
    with pytest.raises(
        ModelLoadError, match=r"m\.pt .*of another size: 0.w.*; missing: .* and 4 more; unexpected: extra"
    ):
        load_strict(target, wrong, source="m.pt")
    assert equal(target.state_dict(), before)


def test_load_matching_names_what_keeps_its_initial_value() -> None:
    state = {**WEIGHTS, "2.weight": torch.ones(1000, 4), "2.bias": torch.ones(1000)}
    target = network()
    assert load_matching(target, state, source="m.pt") == ["2.weight", "2.bias"]
    assert torch.equal(target[0].weight, WEIGHTS["0.weight"])


def test_load_matching_refuses_another_architecture() -> None:
    with pytest.raises(ModelLoadError, match="only 1 of the network's 6 parameter tensors"):
        load_matching(network(), other_network().state_dict(), source="m.pt")


def test_match_architecture_finds_the_only_fit() -> None:
    assert match_architecture(WEIGHTS, {"a": network, "b": other_network}) == "a"
    assert match_architecture(PREFIXED, {"a": other_network, "b": network}) == "b"


def test_match_architecture_builds_without_memory() -> None:
    devices = []

    def build() -> nn.Module:
        built = network()
        devices.append(built[0].weight.device.type)
        return built

    match_architecture(WEIGHTS, {"a": build})
    assert devices == ["meta"]


def test_match_architecture_names_the_nearest() -> None:
    state = {**WEIGHTS, "2.weight": torch.ones(1000, 4), "2.bias": torch.ones(1000)}
    with pytest.raises(
        ModelLoadError, match=r"nearest: a \(75% of the tensors; 2.weight \[1000, 4\] instead"
    ) as caught:
        match_architecture(state, {"b": other_network, "a": network})
    assert "--arch" in str(caught.value)


def test_match_architecture_asks_where_several_fit() -> None:
    with pytest.raises(ModelLoadError, match=r"several architectures \(a, b\).*--arch"):
        match_architecture(WEIGHTS, {"a": network, "b": network})
