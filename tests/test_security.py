"""SECURITY.md lists every place where bytes become objects, or where code is imported or started; no more, no fewer."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The last names of calls that turn bytes into objects, import what a word names, or start a program.
RISKY = {
    *("eval", "exec", "compile", "__import__", "import_module", "resolve_name", "exec_module", "find_class"),
    *("loadmat", "InferenceSession", "onnx_session", "safe_open", "load_file", "from_pretrained", "hf_hub_download"),
    *("Popen", "run_path", "run_module", "load_library", "load_inline", "CDLL", "Unpickler", "system", "popen"),
}
# Names that are harmless on other objects: what they are risky behind.
BEHIND = {
    "load": {"torch", "np", "numpy", "pickle", "marshal", "dill", "joblib", "export", "jit", "yaml", "onnx", "package"},
    "loads": {"pickle", "marshal", "dill"},
    "open": {"Image", "shelve"},
    "run": {"subprocess"},
    "call": {"subprocess"},
    "check_output": {"subprocess"},
    "load_state_dict_from_url": {"hub"},
}
METHODS = {"eval", "compile"}  # of networks and of patterns: harmless behind a dot
ROW = re.compile(r"^\| `(iqa_armor/[\w/]+\.py)` \| `([\w.]+)`(?: ×(\d+))? \| .{10,} \|$", re.M)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def risky_calls(source: str) -> list[str]:
    """Return the last two parts of the names of risky calls, whatever the imports call their modules."""
    tree = ast.parse(source)
    renamed = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    renamed |= {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = _dotted(node.func).partition(".")
            parts = [*renamed.get(first, first).split("."), *(rest.split(".") if rest else [])]
            owner, name = parts[-2] if len(parts) > 1 else "", parts[-1]
            is_method = name in METHODS and isinstance(node.func, ast.Attribute) and owner != "builtins"
            if (name in RISKY and not is_method) or owner in BEHIND.get(name, ()):
                found.append(".".join(filter(None, (owner if name in BEHIND else "", name))))
    return found


def test_every_place_where_bytes_become_objects_has_an_entry() -> None:
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted((ROOT / "iqa_armor").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        found.update((name, call) for call in risky_calls(path.read_text(encoding="utf-8")))
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    listed = {(file, call): int(count or 1) for file, call, count in ROW.findall(text)}
    missing = {place: count for place, count in found.items() if listed.get(place) != count}
    assert not missing, f"add these to the tables of SECURITY.md, with the reason why they run no code: {missing}"
    assert not listed.keys() - found.keys(), "these are gone from the package; remove their rows"


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("import torch\ntorch.load(f)", "torch.load"),
        ("import torch as t\nt.load(f)", "torch.load"),
        ("from torch import load as read\nread(f)", "torch.load"),
        ("import torch\ntorch.export.load(f)", "export.load"),
        ("import torch\ntorch.jit.load(f)", "jit.load"),
        ("import numpy as np\nnp.load(f)", "numpy.load"),
        ("from PIL import Image\nImage.open(f)", "Image.open"),
        ("import PIL.Image\nPIL.Image.open(f)", "Image.open"),
        ("from scipy.io import loadmat\nloadmat(f)", "loadmat"),
        ("import scipy.io as io\nio.loadmat(f)", "loadmat"),
        ("import pickle\npickle.loads(f)", "pickle.loads"),
        ("from pickle import Unpickler\nUnpickler(f).load()", "Unpickler"),
        ("eval('1')", "eval"),
        ("exec('1')", "exec"),
        ("import builtins\nbuiltins.eval('1')", "eval"),
        ("import onnxruntime\nonnxruntime.InferenceSession(f)", "InferenceSession"),
        ("from importlib import import_module\nimport_module(n)", "import_module"),
        ("import pkgutil\npkgutil.resolve_name(n)", "resolve_name"),
    ],
)
def test_a_new_place_is_found_however_it_is_written(source: str, call: str) -> None:
    assert call in risky_calls(source)


@pytest.mark.parametrize(
    "source", ["network.eval()", "re.compile('a')", "path.open()", "json.loads(t)", "store.load(n)"]
)
def test_what_reads_no_foreign_bytes_is_none(source: str) -> None:
    assert risky_calls(source) == []


def test_dependencies_that_sleep_have_an_upper_bound_and_all_a_lower() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    assert all(">=" in each for each in wanted)
    sleeping = {each.partition(">")[0] for each in wanted if ",<" in each}
    assert sleeping == {"torch-pruning", "piq"}
