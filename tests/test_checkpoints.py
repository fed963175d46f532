"""Other people's checkpoint files: opened without running code, refused by name, matched to an architecture."""

import argparse
import collections
import datetime
import io
import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from iqa_armor.errors import ModelLoadError
from iqa_armor.models.checkpoints import Checkpoint, read_checkpoint
from iqa_armor.models.weights import load_matching, load_strict, match_architecture


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 1))


def other_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 1))


def state_of(path: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    state = read_checkpoint(path, trust_pickle=trust_pickle).weights
    assert isinstance(state, dict)
    return state


def opened(stored: object, path: Path, *, weights_key: str | None = None) -> Checkpoint:
    torch.save(stored, path / "m.pt")
    return read_checkpoint(path / "m.pt", weights_key=weights_key)


def loaded(stored: object, path: Path, *, weights_key: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Return the weights that a new network has got from a file, and everything that is said of it."""
    found, target = opened(stored, path, weights_key=weights_key), network()
    remark = load_strict(target, found.state, source="m.pt")
    return target.state_dict(), "\n".join((*found.remarks, remark))


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def save_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


WEIGHTS: OrderedDict[str, Tensor] = network().state_dict()
PREFIXED = {f"module.{name}": value for name, value in WEIGHTS.items()}
STATE = {"step": torch.tensor(3)}


@pytest.mark.parametrize(
    "name",
    ["m.pt", "M.PTH", "best.pth.tar", "pytorch_model.bin", "m.pkl", "m.ckpt", "weights", "m.safetensors", "m.zip"],
)
def test_content_decides_how_a_file_is_read_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    for save in (torch.save, save_legacy):
        save(WEIGHTS, tmp_path / name)
        assert equal(state_of(tmp_path / name), WEIGHTS)
    save_file(dict(WEIGHTS), tmp_path / name)
    assert state_of(tmp_path / name).keys() == WEIGHTS.keys()


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
    assert equal(loaded(stored, tmp_path)[0], WEIGHTS)


OTHER: OrderedDict[str, Tensor] = network().state_dict()


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    "averaged",
    [
        "ema",
        "model_ema",
        "state_dict_ema",
        "params_ema",
        "ema_state_dict",
        "modelEMA",
        "swa_model",
        "averaged",
        "net_g_ema",
    ],
)
@pytest.mark.parametrize("raw", ["state_dict", "model", "params", "anything"])
def test_averaged_weights_are_preferred_and_a_key_chooses(averaged: str, raw: str, tmp_path: Path) -> None:
    stored = {raw: OTHER, averaged: PREFIXED, "optimizer": {"state": {0: STATE}}, "epoch": 3}
    state, said = loaded(stored, tmp_path)
    assert equal(state, WEIGHTS)
    assert f"the weights under {averaged!r} are opened; --weights-key chooses another of {raw!r}" in said
    state, said = loaded(stored, tmp_path, weights_key=raw)
    assert equal(state, OTHER)
    assert said == ""


@pytest.mark.parametrize(
    ("stored", "key"),
    [
        ({"state_dict": OTHER, "ema": {"module": WEIGHTS, "updates": 7}}, "ema.module"),
        ({"state_dict": OTHER, "callbacks": {"EMA": {"ema_state_dict": WEIGHTS}}}, "callbacks.EMA.ema_state_dict"),
        ({"model": {"state_dict": OTHER, "ema": WEIGHTS}}, "model.ema"),
        ({"model": OTHER, "ema": {**PREFIXED, "n_averaged": torch.tensor(5)}}, "ema"),
    ],
)
def test_averaged_weights_are_found_deeper(stored: object, key: str, tmp_path: Path) -> None:
    assert opened(stored, tmp_path).key == key
    assert equal(loaded(stored, tmp_path)[0], WEIGHTS)


@pytest.mark.parametrize("none", [None, {}, 0.999, [torch.ones(2)], {"decay": 0.99, "num_updates": torch.tensor(3)}])
def test_what_holds_no_averaged_weights_is_no_choice(none: object, tmp_path: Path) -> None:
    assert equal(loaded({"state_dict": WEIGHTS, "ema": none}, tmp_path)[0], WEIGHTS)


def test_averages_of_parameters_alone_take_the_buffers_of_the_others(tmp_path: Path) -> None:
    averaged = {name: value for name, value in PREFIXED.items() if "running" not in name and "tracked" not in name}
    state, said = loaded({"model": OTHER, "ema": averaged}, tmp_path)
    assert torch.equal(state["0.weight"], WEIGHTS["0.weight"])
    assert torch.equal(state["1.running_var"], OTHER["1.running_var"])
    assert "'ema' lack the buffers, which are those under 'model'" in said


def test_averages_that_lack_weights_are_not_opened(tmp_path: Path) -> None:
    state, said = loaded({"model": WEIGHTS, "ema": {"0weight": torch.ones(4, 3, 3, 3)}}, tmp_path)
    assert equal(state, WEIGHTS)
    assert "'ema' are not opened, since they lack 0.weight" in said


def shadows(weights: dict[str, Tensor]) -> dict[str, object]:
    """Return averages as torch_ema saves them: the parameters in their order, without names."""
    values = [value for name, value in weights.items() if "running" not in name and "tracked" not in name]
    return {"decay": 0.99, "num_updates": 5, "shadow_params": values, "collected_params": None}


@pytest.mark.parametrize("raw", [OTHER, prefixed(OTHER, "module.")])
@pytest.mark.parametrize(("ema", "key"), [("ema", "ema.shadow_params"), ("averages", "averages.shadow_params")])
def test_averages_without_names_take_those_of_the_weights_beside_them(
    raw: dict[str, Tensor], ema: str, key: str, tmp_path: Path
) -> None:
    stored = {"model": raw, ema: shadows(WEIGHTS), "epoch": 3}
    for chosen in (None, key):
        state = loaded(stored, tmp_path, weights_key=chosen)[0]
        assert torch.equal(state["0.weight"], WEIGHTS["0.weight"])
        assert torch.equal(state["2.bias"], WEIGHTS["2.bias"])
    assert torch.equal(loaded(stored, tmp_path, weights_key="model")[0]["0.weight"], OTHER["0.weight"])
    said = loaded(stored, tmp_path)[1]
    assert f"the averaged weights under {key!r} have names and buffers of those under 'model'" in said


def test_averages_without_names_that_match_nothing_are_named(tmp_path: Path) -> None:
    few = {**shadows(WEIGHTS), "shadow_params": [WEIGHTS["0.weight"]]}
    state, said = loaded({"model": OTHER, "ema": few}, tmp_path)
    assert equal(state, OTHER)
    assert "the averaged weights under 'ema.shadow_params' are a list without names" in said
    for stored, key in (({"ema": few}, None), ({"model": OTHER, "ema": few}, "ema")):
        with pytest.raises(ModelLoadError, match=r"under 'ema.shadow_params' are a list without names.*state_dict\(\)"):
            opened(stored, tmp_path, weights_key=key)


def test_a_single_set_under_another_key_is_opened_and_named(tmp_path: Path) -> None:
    state, said = loaded({"my_net": WEIGHTS, "range": torch.tensor([0.0, 100.0])}, tmp_path)
    assert equal(state, WEIGHTS)
    assert "under 'my_net' are opened" in said


def test_several_sets_of_which_none_is_usual_are_asked_about(tmp_path: Path) -> None:
    stored = {"teacher": WEIGHTS, "student": OTHER}
    with pytest.raises(ModelLoadError, match=r"several sets of weights: teacher, student; choose with --weights-key"):
        opened(stored, tmp_path)
    assert equal(loaded(stored, tmp_path, weights_key="student")[0], OTHER)
    with pytest.raises(ModelLoadError, match=r"no weights under 'pupil'; it has 'teacher', 'student'"):
        opened(stored, tmp_path, weights_key="pupil")


COUNTED = {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1), "2.total_ops": torch.zeros(1)}
LIGHTNING = {"criterion.weight": torch.ones(3), "val_metrics.total": torch.tensor(0.0), "vgg.0.weight": torch.ones(9)}


@pytest.mark.parametrize(
    ("stored", "left_out"),
    [
        ({**PREFIXED, "n_averaged": torch.tensor(5)}, "n_averaged"),
        (prefixed({**WEIGHTS, **COUNTED}, "module."), "module (3 tensors)"),
        ({**WEIGHTS, **COUNTED}, "total_ops, 0, 2"),
        ({**prefixed(WEIGHTS, "model."), **LIGHTNING}, "criterion, val_metrics, vgg"),
        ({**prefixed(WEIGHTS, "model.module."), **LIGHTNING}, "criterion, val_metrics, vgg"),
        ({**prefixed(WEIGHTS, "iqa_net."), **LIGHTNING}, "criterion, val_metrics, vgg"),
        ({**WEIGHTS, "criterion.weight": torch.ones(3), "train_loss.w": torch.ones(1)}, "criterion, train_loss"),
        ({**WEIGHTS, "epoch": 3, "args": ["a"]}, "epoch, args"),
        ({"_orig_mod." + name.replace("0.", "0.module.", 1): value for name, value in WEIGHTS.items()}, ""),
    ],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_the_weights_are_taken_and_what_lies_beside_them_is_named(
    stored: dict[str, Any], left_out: str, is_nested: bool, tmp_path: Path
) -> None:
    state, said = loaded({"state_dict": stored, "epoch": 3} if is_nested else stored, tmp_path)
    assert equal(state, WEIGHTS)
    assert left_out in said
    assert bool(left_out) == bool(said)


def test_an_averaged_copy_among_the_names_is_preferred(tmp_path: Path) -> None:
    for raw in ("", "model."):
        state, said = loaded({**prefixed(OTHER, raw), **prefixed(WEIGHTS, "ema_model.module.")}, tmp_path)
        assert equal(state, WEIGHTS)
        assert "under 'ema_model.module' are opened, left out: " in said
        assert equal(loaded({**prefixed(OTHER, "model."), **PREFIXED}, tmp_path, weights_key="model")[0], OTHER)


def test_copies_that_fit_alike_are_asked_about_unless_they_are_equal(tmp_path: Path) -> None:
    twice = {**prefixed(WEIGHTS, "student."), **prefixed(OTHER, "teacher.")}
    with pytest.raises(ModelLoadError, match="several sets of weights fit, under 'student', 'teacher'; choose"):
        loaded(twice, tmp_path)
    assert equal(loaded(twice, tmp_path, weights_key="teacher")[0], OTHER)
    assert equal(loaded({**prefixed(WEIGHTS, "a."), **prefixed(WEIGHTS, "b.")}, tmp_path)[0], WEIGHTS)


@pytest.mark.parametrize("name", ["module", "model", "net", "ema", "criterion", "_orig_mod"])
def test_a_child_that_is_called_like_a_wrapper_keeps_its_name(name: str, tmp_path: Path) -> None:
    target = nn.ModuleDict({name: network()})
    load_strict(target, opened(prefixed(WEIGHTS, f"{name}."), tmp_path).state)
    assert equal(target[name].state_dict(), WEIGHTS)
    load_strict(target, opened(prefixed(OTHER, f"module.{name}."), tmp_path).state)
    assert equal(target[name].state_dict(), OTHER)


def test_an_extra_layer_is_still_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"unexpected: 3\.weight"):
        loaded({**WEIGHTS, "3.weight": torch.ones(2)}, tmp_path)


DATA = {
    "args": argparse.Namespace(lr=0.1, path=Path("x")),
    "best": np.float64(0.9),
    "epoch": np.int64(3),
    "flag": np.bool_(True),
    "name": np.str_("x"),
    "history": np.arange(6.0).reshape(2, 3).T,
    "names": np.array(["a", "b"], dtype=object),
    "when": datetime.datetime(2020, 1, 1),
    "scores": collections.defaultdict(list, a=[1]),
    "last": collections.deque([1, 2], 3),
    "simple": types.SimpleNamespace(a=1),
    "rng": np.random.default_rng(0).bit_generator.state["state"],
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_data_beside_the_weights_is_not_code(save: Any, name: str, tmp_path: Path) -> None:
    save({"state_dict": WEIGHTS, name: DATA[name]}, tmp_path / "m.pt")
    assert equal(state_of(tmp_path / "m.pt"), WEIGHTS)


def test_weights_and_rescalings_of_numpy_are_read(tmp_path: Path) -> None:
    arrays = {name: value.numpy() for name, value in WEIGHTS.items()}
    assert equal(state_of(saved({"model": arrays}, tmp_path)), WEIGHTS)
    swapped = np.arange(6, dtype=">f4").reshape(2, 3)
    found = state_of(saved({"a": swapped, "b": np.asfortranarray(swapped)}, tmp_path))
    assert found["a"].tolist() == found["b"].tolist() == swapped.tolist()
    found = state_of(saved({"model": WEIGHTS, "k": [np.float32(2), np.float32(3)], "b": np.array([0.5])}, tmp_path))
    assert found["rescaling.k"] == 2
    assert found["rescaling.b"] == 0.5


def saved(value: object, path: Path) -> Path:
    torch.save(value, path / "m.pt")
    return path / "m.pt"


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


@pytest.mark.parametrize("save", [torch.save, save_legacy, save_plain])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    save: Callable[[object, Path], None], tmp_path: Path
) -> None:
    path, touched = tmp_path / "m.pt", tmp_path / "executed"
    save({"state_dict": WEIGHTS, "extra": Touch(touched)}, path)
    with pytest.raises(ModelLoadError, match=r"would run its author's code.*--trust-pickle") as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 3
    assert not touched.exists()
    assert equal(state_of(path, trust_pickle=True), WEIGHTS)
    assert touched.exists()


def test_a_whole_pickled_module_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"model": network(), "epoch": 3}, path)
    with pytest.raises(ModelLoadError, match=r"asks for torch\.nn\.modules.*--trust-pickle"):
        read_checkpoint(path)
    assert isinstance(read_checkpoint(path, trust_pickle=True).weights, nn.Sequential)


def test_a_module_whose_source_is_missing_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x02cabsent_package\nNetwork\n.")
    with pytest.raises(ModelLoadError, match=r"needs its author's source code.*absent_package"):
        read_checkpoint(path, trust_pickle=True)


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
    "text": ("m.pt", b"<html>404</html>", "a web page"),
    "numbers": ("m.pt", b"1 2 3", "neither a torch archive nor a pickle"),
    "git-lfs pointer": ("m.pth", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "gzip": ("m.pth.gz", b"\x1f\x8b\x08\x00", "compressed by gzip; unpack it"),
    "keras": ("m.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
    "index": ("m.bin.index.json", b'{"metadata": {}, "weight_map": {}}', "JSON, perhaps the index"),
    "truncated": ("m.pt", torch_bytes(WEIGHTS)[:-300], "truncated or damaged"),
    "truncated early": ("m.pt", torch_bytes(WEIGHTS)[:30], "truncated or damaged"),
    "other archive": ("m.pt", zipped(["a/readme.txt"]), "no torch checkpoint"),
    "broken pickle in an archive": ("m.pt", zipped(["a/data.pkl", "a/version"]), "truncated, damaged or no checkpoint"),
    "torchscript": ("m.pt", zipped(["a/constants.pkl", "a/data.pkl", "a/code/x.py"]), "TorchScript"),
    "onnx": ("m.onnx", b"\x08\x07", "an exported graph"),
    "image": ("m.png", b"\x89PNG", "neither a torch archive nor a pickle"),
    "exported": ("m.pt2", zipped(["m/models/model.json", "m/version"]), "an exported graph"),
    "safetensors of text": ("m.safetensors", b"not a safetensors file", "damaged or no safetensors"),
    "safetensors of a huge header": ("m.safetensors", b"\xff" * 64, "damaged or no safetensors"),
    "list": ("m.pt", torch_bytes([1, 2]), "holds a list"),
    "single tensor": ("m.pt", torch_bytes(torch.ones(3)), "holds a Tensor"),
    "no weights": ("m.pt", torch_bytes({"epoch": 3, "lr": 0.1}), "no weights.*it holds epoch, lr"),
    "empty state": ("m.pt", torch_bytes({}), "no weights"),
    "numbered": ("m.pt", torch_bytes({0: torch.ones(1)}), "without a name.*: 0"),
    "meta": ("m.pt", torch_bytes({"a": torch.ones(3, device="meta")}), "without values.*: a"),
    "expanded": ("m.pt", torch_bytes({"a": torch.ones(1).expand(10**6, 10**6)}), "without values.*: a"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_what_is_no_checkpoint_is_refused_by_name(name: str, tmp_path: Path) -> None:
    file, content, message = CORRUPT[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelLoadError, match=message) as caught:
        read_checkpoint(tmp_path / file)
    assert file in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for save in (torch.save, save_legacy):
        save(WEIGHTS, tmp_path / "whole.pt")
        content = (tmp_path / "whole.pt").read_bytes()
        for length in range(0, len(content) - 1, len(content) // 40):
            (tmp_path / "m.pt").write_bytes(content[:length])
            with pytest.raises(ModelLoadError):
                read_checkpoint(tmp_path / "m.pt")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no model file .*absent\.pt"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(ModelLoadError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_weights_that_are_not_finite_are_listed(tmp_path: Path) -> None:
    state = {**WEIGHTS, "0.bias": torch.full((4,), float("nan")), "2.bias": torch.tensor([float("inf")])}
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ModelLoadError, match=r"NaN or infinite weights in 0\.bias, 2\.bias"):
        read_checkpoint(tmp_path / "m.pt")


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
