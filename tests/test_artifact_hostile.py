"""Graphs from an attacker: each is refused by name, and nothing of them is executed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_forgery import (
    CODE,
    FN,
    METHOD,
    Document,
    Edit,
    assert_refused,
    change,
    honest_artifact,
    insert,
    setting,
)
from torch import nn

from iqa_armor.artifact.checks import MAX_NODES


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return honest_artifact(tmp_path_factory.mktemp("honest") / "model.safetensors")


def grow(document: Document) -> None:
    document["nodes"][-1:-1] = [
        {"op": "call_function", "target": "torch.relu", "args": [{"node": 0}], "kwargs": {}} for _ in range(MAX_NODES)
    ]


def chain(document: Document, first: list[dict[str, Any]], repeated: Callable[[int], dict[str, Any]]) -> None:
    """Put `first` and then sixteen nodes, each made from the number of the one before, in front of the output."""
    nodes = document["nodes"]
    output = nodes.pop()
    nodes += first
    for _ in range(16):
        nodes.append({"kwargs": {}, **repeated(len(nodes) - 1)})
    nodes.append(output)


def blow_up(document: Document) -> None:
    first = {"op": METHOD, "target": "repeat", "args": [{"node": 0}, 1, 1, 8, 8], "kwargs": {}}
    chain(document, [first], lambda i: {**first, "args": [{"node": i}, 1, 1, 8, 8]})


def tower(document: Document) -> None:
    size = {"op": METHOD, "target": "size", "args": [{"node": 0}, 2], "kwargs": {}}
    chain(document, [size], lambda i: {"op": FN, "target": "operator.pow", "args": [{"node": i}, 64]})


def repeated_list(document: Document) -> None:
    size = {"op": METHOD, "target": "size", "args": [{"node": 0}], "kwargs": {}}
    chain(document, [size], lambda i: {"op": FN, "target": "operator.mul", "args": [{"node": i}, 2**31 - 1]})


def large_exponent(document: Document) -> None:
    size = {"op": METHOD, "target": "size", "args": [{"node": 0}, 2], "kwargs": {}}
    chain(document, [size], lambda i: {"op": FN, "target": "operator.pow", "args": [{"node": i}, {"node": i}]})


def splinters(document: Document) -> None:
    nodes = [
        {"op": METHOD, "target": "repeat", "args": [{"node": 0}, 1, 1, 1, 2**14], "kwargs": {}},
        {"op": METHOD, "target": "flatten", "args": [{"node": len(document["nodes"]) - 1}], "kwargs": {}},
    ]
    chain(document, nodes, lambda i: {"op": METHOD, "target": "unbind", "args": [{"node": i}]})


def double(document: Document) -> None:
    size = {"op": METHOD, "target": "size", "args": [{"node": 0}], "kwargs": {}}
    chain(document, [size], lambda i: {"op": FN, "target": "operator.add", "args": [{"node": i}, {"node": i}]})


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"list": [value]}
    return value


HOSTILE: dict[str, tuple[Edit, str]] = {
    # Code where fx would execute it.
    "placeholder target": (change("placeholder", target=f"x={CODE}"), "placeholder"),
    "placeholder default": (change("placeholder", args=[1]), "placeholder"),
    "starred placeholder": (change("placeholder", target="*images"), "placeholder"),
    "keyword name": (
        change(FN, "flatten", kwargs={f"end_dim=1, start_dim={CODE}, x": 1}),
        "takes no keyword",
    ),
    "keyword of a method": (
        change(METHOD, "mean", kwargs={f"keepdim={CODE}, dtype": None}),
        "takes no keyword",
    ),
    "keyword of a layer": (change("call_module", "head", kwargs={f"x={CODE}": 1}), "takes no keyword"),
    "keyword given twice": (change(FN, "flatten", kwargs={"input": {"node": 0}}), "takes no keyword"),
    "method name": (change(METHOD, "mean", target=f"mean().__class__ or {CODE} or x.mean"), "not allowed"),
    "module path": (change("call_module", "head", target=f"head if {CODE} else self.head"), "no module path"),
    "attribute path": (change("get_attr", target=f"gain or {CODE}"), "no module path"),
    "output expression": (change("output", target=f"output = {CODE}"), "output"),
    "kind of node": (change(FN, "flatten", op=f"call_function\n{CODE}"), "no kind of node"),
    "unit": (change("call_module", "head", unit=f'"""\n{CODE}\n"""'), "no module path"),
    "node name": (change("call_module", "head", name=CODE), "unknown fields"),
    "node type": (change("call_module", "head", type=CODE), "unknown fields"),
    # Functions, methods and classes outside the tables.
    "os.system": (
        change(FN, "flatten", target="os.system", args=["touch executed"]),
        "'os.system' is not allowed",
    ),
    "torch.load": (change(FN, "flatten", target="torch.load"), "'torch.load' is not allowed"),
    "builtins.eval": (insert(target="builtins.eval", args=[CODE]), "'builtins.eval' is not allowed"),
    "torch.ops": (insert(target="torch.ops.aten.relu"), "is not allowed"),
    "torch.hub": (insert(target="torch.hub.load"), "is not allowed"),
    "as_strided": (insert(op=METHOD, target="as_strided", args=[{"node": 0}, [9], [9]]), "is not allowed"),
    "unknown method": (change(METHOD, "mean", target="tofile"), "'tofile' is not allowed"),
    "dunder method": (change(METHOD, "mean", target="__reduce__"), "is not allowed"),
    "dotted method": (change(METHOD, "mean", target="data.mean"), "is not allowed"),
    "unknown class": (
        setting("leaves", "head", "class", to="torch.nn.LazyLinear"),
        "'torch.nn.LazyLinear' is not allow",
    ),
    "class with code": (setting("leaves", "head", "class", to="subprocess.Popen"), "is not allowed"),
    "class of another type": (setting("leaves", "head", "class", to=["torch.nn.Linear"]), "is not allowed"),
    "script class": (setting("leaves", "head", "class", to="torch.jit.ScriptModule"), "is not allowed"),
    # getattr and strings.
    "dunder getattr": (
        insert(target="builtins.getattr", args=[{"node": 0}, "__class__"]),
        "accept the string",
    ),
    "getattr of a node": (
        insert(target="builtins.getattr", args=[{"node": 0}, {"node": 0}]),
        "must be a string",
    ),
    "getattr of a constant": (
        insert(target="builtins.getattr", args=["shape", "shape"]),
        "value of another node",
    ),
    "string argument": (change(METHOD, "mean", args=[{"node": 0}, CODE]), "does not accept the string"),
    "string in a tuple": (
        change(METHOD, "mean", args=[{"node": 0}, {"tuple": [CODE]}]),
        "does not accept the string",
    ),
    "string to a layer": (change("call_module", "head", args=[CODE]), "does not accept the string"),
    "string in a keyword": (change(FN, "flatten", kwargs={"end_dim": CODE}), "does not accept the string"),
    "equation": (
        insert(target="torch.einsum", args=[f"ab->{CODE}", {"node": 0}]),
        "does not accept the string",
    ),
    "device text": (insert(op=METHOD, target="to", args=[{"node": 0}, "cuda"]), "does not accept the string"),
    "format string": (insert(target="operator.mod", args=["%s", {"node": 0}]), "does not accept the string"),
    # Arguments.
    "plain array": (change(METHOD, "mean", args=[{"node": 0}, [2, 3]]), "is no argument"),
    "unknown constant": (
        insert(op=METHOD, target="to", args=[{"node": 0}, {"torch": "load"}]),
        "is no argument",
    ),
    "two kinds at once": (insert(args=[{"node": 0, "float": "inf"}, 1]), "is no argument"),
    "unknown float": (insert(args=[{"node": 0}, {"float": "1; x"}]), "is no argument"),
    "slice of texts": (
        insert(target="operator.getitem", args=[{"node": 0}, {"slice": [{"float": "inf"}, 0, 1]}]),
        "slice",
    ),
    "deep argument": (insert(target="torch.cat", args=[deep(12)]), "nested more than"),
    "missing argument": (insert(args=[{"node": 0}]), "needs 2 arguments"),
    "operator with three": (insert(args=[{"node": 0}, 1, 2]), "at most 2 arguments"),
    "method without tensor": (insert(op=METHOD, target="relu", args=[]), "needs the node"),
    "method of a number": (insert(op=METHOD, target="relu", args=[5]), "needs the node"),
    "assigning to a number": (insert(target="operator.iadd", args=[5, {"node": 0}]), "value of another node"),
    "huge power": (insert(target="operator.pow", args=[{"node": 0}, 10**9]), "too large"),
    "huge repeat": (insert(op=METHOD, target="repeat", args=[{"node": 0}, 10**9]), "too large"),
    "huge list": (insert(target="operator.mul", args=[{"list": [1]}, 10**9]), "takes tensors and numbers"),
    "huge size": (insert(target="torch.nn.functional.interpolate", args=[{"node": 0}, 10**6]), "too large"),
    "huge padding": (
        insert(target="torch.nn.functional.pad", args=[{"node": 0}, {"list": [10**9, 0]}]),
        "too large",
    ),
    "many arguments": (insert(target="torch.cat", args=[{"list": [{"node": 0}] * 5000}]), "at most 4096 values"),
    "many positions": (insert(op=METHOD, target="view", args=[{"node": 0}, *[1] * 5000]), "at most"),
    # Graphs that would take all memory once run, or cannot run.
    "repeated repeats": (blow_up, "GiB at once, and .* left of --max-memory"),
    "power of powers": (tower, "bits"),
    "repeated list": (repeated_list, "repeats a list"),
    "exponent that is computed": (large_exponent, "bits|a power above"),
    "endless list": (splinters, "splits a tensor of"),
    "lists of lists": (double, "list of"),
    "sizes that do not go together": (change(METHOD, "mean", args=[{"node": 0}, 3]), "its graph fails on images"),
    "no score": (change("output", args=[{"node": 1}]), "one score per image"),
    # Wiring.
    "later node": (change(FN, "flatten", args=[{"node": 9}, 1]), "no earlier node"),
    "itself": (lambda d: d["nodes"][1].update(args=[{"node": 1}]), "no earlier node"),
    "negative node": (change(FN, "flatten", args=[{"node": -1}, 1]), "no earlier node"),
    "node by truth": (change(FN, "flatten", args=[{"node": True}, 1]), "no earlier node"),
    "two placeholders": (lambda d: d["nodes"].insert(0, dict(d["nodes"][0])), "one placeholder"),
    "no output": (lambda d: d["nodes"].pop(), "one placeholder.*one output"),
    "output in between": (lambda d: d["nodes"].insert(2, dict(d["nodes"][-1])), "one output"),
    "output of a list": (change("output", args=[{"list": [{"node": 0}]}]), "value of one node"),
    "empty graph": (setting("nodes", to=[]), "2 to"),
    "nodes by name": (setting("nodes", to={}), "2 to"),
    "too many nodes": (grow, "2 to"),
    "node of text": (setting("nodes", to=["x", "y"]), "JSON object"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_description_is_refused(
    name: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(honest, tmp_path, *HOSTILE[name])


def test_code_reached_by_fx_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above are worth something only if fx does execute such a keyword name."""
    monkeypatch.chdir(tmp_path)
    graph = torch.fx.Graph()
    images = graph.placeholder(f"x={CODE}")
    graph.output(images)
    torch.fx.GraphModule(nn.Module(), graph)
    assert (tmp_path / "executed").exists()
