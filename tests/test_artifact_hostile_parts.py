"""Paths, layers, tensors and settings from an attacker: each is refused by name."""

from pathlib import Path

import pytest
import torch
from artifact_forgery import (
    CODE,
    FN,
    Document,
    Edit,
    assert_refused,
    change,
    forged,
    honest_artifact,
    rename_leaf,
    setting,
)

from iqa_armor.artifact.storage import load_artifact


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return honest_artifact(tmp_path_factory.mktemp("honest") / "model.safetensors")


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"list": [value]}
    return value


HOSTILE: dict[str, tuple[Edit, str]] = {
    # Paths.
    "dunder path": (change("call_module", "head", target="head.__class__"), "no module path"),
    "declared dunder": (rename_leaf("a.__class__"), "no module path"),
    "private state": (rename_leaf("_parameters"), "no module path"),
    "forward": (rename_leaf("forward"), "no module path"),
    "graph": (rename_leaf("graph"), "no module path"),
    "training flag": (rename_leaf("body.training"), "no module path"),
    "python keyword": (rename_leaf("body.lambda"), "no module path"),
    "the network itself": (rename_leaf("self"), "no module path"),
    "the network in capitals": (rename_leaf("Self"), "no module path"),
    "empty part": (rename_leaf("body..2"), "no module path"),
    "line break": (rename_leaf("act\n"), "no module path"),
    "quote": (rename_leaf('body.a")'), "no module path"),
    "other alphabet": (rename_leaf("ｓelf"), "no module path"),
    "long path": (rename_leaf("a" * 300), "no module path"),
    "layer inside a layer": (rename_leaf("head.inner"), "lies inside"),
    "layer not declared": (change("call_module", "head", target="tail"), "no declared layer"),
    "container as layer": (change("call_module", "head", target="body"), "no declared layer"),
    "attribute not declared": (change("get_attr", target="body.0.missing"), "no declared tensor"),
    "layer as attribute": (change("get_attr", target="head"), "no declared tensor"),
    "unused layer": (
        setting("leaves", "spare", to={"class": "torch.nn.ReLU", "arguments": {"inplace": True}}),
        "never",
    ),
    "path declared twice": (setting("attributes", "head", to="buffer"), "both as layer and as tensor"),
    # Constructor arguments.
    "text for a number": (
        setting("leaves", "head", "arguments", "in_features", to="4"),
        "in_features must be",
    ),
    "huge layer": (setting("leaves", "head", "arguments", "in_features", to=10**12), "in_features must be"),
    "other size": (setting("leaves", "head", "arguments", "in_features", to=5), r"needs \[1, 5\]"),
    "missing bias": (
        setting("leaves", "head", "arguments", "bias", to=False),
        "tensors that no layer owns: 'head.bias'",
    ),
    "extra argument": (
        setting("leaves", "head", "arguments", "device", to="cuda"),
        "unknown fields: 'device'",
    ),
    "missing argument of a layer": (lambda d: d["leaves"]["head"]["arguments"].pop("bias"), "lacks bias"),
    "huge block": (
        setting("leaves", "block", "arguments", "channels", to=100_000),
        "must have size|must be a whole",
    ),
    "unknown backend": (
        setting("leaves", "block", "arguments", "backend", to=CODE),
        "backend must be one of",
    ),
    # Tensors.
    "tensor left out of the table": (lambda d: d["tensors"].pop("gain"), "disagree on 'gain'"),
    "tensor not in the file": (setting("tensors", "ghost", to=["F32", [1]]), "disagree on 'ghost'"),
    "another type": (setting("tensors", "gain", to=["F16", [4, 1, 1]]), "declared as"),
    "another size": (setting("tensors", "gain", to=["F32", [4]]), "declared as"),
    "unknown type": (setting("tensors", "gain", to=["object", [4, 1, 1]]), "unknown data type"),
    "unclear kind": (setting("attributes", "gain", to=CODE), "parameter or a buffer"),
    "attribute without tensor": (setting("attributes", "ghost", to="buffer"), "not in the file"),
    # Settings.
    "future format": (setting("format", to=99), "newer iqa-armor"),
    "format by truth": (setting("format", to=True), "newer iqa-armor"),
    "needs source": (setting("needs_source", to=True), "--arch"),
    "missing field": (lambda d: d.pop("leaves"), "lacks leaves"),
    "extra field": (setting("hook", to=CODE), "unknown fields"),
    "terminal codes in the name": (setting("name", to="\x1b[2J"), "printable"),
    "terminal codes in the recipe": (setting("recipe", "note", to="\x1b]0;x\x07"), "control characters"),
    "name of another type": (setting("name", to=7), "printable"),
    "huge input": (setting("preprocessing", "size", to=[10**9, 10**9]), "preprocessing: size"),
    "zero deviation": (setting("preprocessing", "std", to=[0, 1, 1]), "preprocessing: std"),
    "interpolation": (setting("preprocessing", "interpolation", to=CODE), "interpolation must be one of"),
    "a range beyond all floats": (setting("score_scale", "high", to=10**400), "score_scale: high"),
    "empty score range": (setting("score_scale", "low", to=5), "finite low < high"),
    "too few training scores": (setting("training_scores", to={"scores": [1], "opinions": []}), "array of 101"),
    "training scores that fall": (
        setting("training_scores", to={"scores": [*range(101, 0, -1)], "opinions": []}),
        "must ascend",
    ),
    "opinions that are huge": (
        setting("training_scores", to={"scores": [*range(101)], "opinions": [10**400] * 101}),
        "training_scores: opinions",
    ),
    "deep recipe": (setting("recipe", to=deep(60)), "nested more than"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_description_is_refused(
    name: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(honest, tmp_path, *HOSTILE[name])


SHADOWING = ("torch", "slice", "getattr", "device", "inf", "nan", "pytree", "fx_pytree", "images", "None_", "print")


@pytest.mark.parametrize("name", [*SHADOWING, "torch.nn", "_operator", "output", "add", "flatten"])
def test_layer_names_never_shadow_what_generated_code_uses(name: str, honest: Path, tmp_path: Path) -> None:
    images = torch.rand(2, 3, 16, 16)
    renamed = load_artifact(forged(honest, tmp_path / "renamed.safetensors", rename_leaf(name)))
    with torch.no_grad():
        assert torch.equal(renamed(images), load_artifact(honest)(images))


def test_a_large_graph_loads_in_reasonable_time(honest: Path, tmp_path: Path) -> None:
    def lengthen(document: Document) -> None:
        document["nodes"][-1:-1] = [
            {"op": FN, "target": "torch.relu", "args": [{"node": 0}], "kwargs": {}} for _ in range(3000)
        ]

    assert len(load_artifact(forged(honest, tmp_path / "long.safetensors", lengthen)).network.graph.nodes) > 3000


def test_the_unedited_file_loads(honest: Path, tmp_path: Path) -> None:
    load_artifact(forged(honest, tmp_path / "copy.safetensors", lambda document: None))
