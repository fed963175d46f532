"""Imports go down the floors only, and nothing at the top imports torch."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "iqa_armor"
FLOORS = {
    "cli": 6,
    "pipeline": 5,
    "report": 5,
    "training": 4,
    "evaluation": 4,
    "artifact": 4,
    "export": 4,
    "surgery": 3,
    "pruning": 3,
    "attacks": 3,
    "defenses": 3,
    "models": 2,
    "data": 2,
    "graph": 1,
    "ortho": 1,
    "metrics": 1,
    "recipe": 1,
    "bounded": 1,
    "machine": 1,
    "randomness": 1,
    "gradients": 1,
    "results": 1,
    "settings": 0,
    "files": 0,
    "limits": 0,
    "progress": 0,
    "registry": 0,
    "errors": 0,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_units(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        found |= {p[1] for p in parts if p[0] == "iqa_armor" and len(p) > 1 and p[1] in FLOORS}
    return found


def test_imports_go_down() -> None:
    # the package's front door names what lives on every floor, lazily
    units = {path: unit_of(path) for path in FILES if unit_of(path) not in ("__init__", "__main__")}
    assert set(units.values()) <= set(FLOORS), "stands on no floor"
    ground = {"errors", "machine"}  # what everything else on their floors stands on
    up = {
        f"{path} (floor {FLOORS[unit]}) imports {imported}"
        for path, unit in units.items()
        for imported in imported_units(path) - {unit} - ground
        if FLOORS[imported] >= FLOORS[unit]
    }
    assert up == set()


def test_the_graph_sees_real_imports() -> None:
    assert {"surgery", "pruning", "artifact"} <= imported_units(PACKAGE / "pipeline" / "harden.py")


@cache
def calls_of(path: Path) -> set[str]:
    """Return the names that a file's code uses, as written: "os.replace", "tempfile"."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute | ast.Name)} | {
        alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }


MAKERS = {f"tempfile.{name}" for name in ("mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile")}
SINGLE = {  # what is done in one place only
    "whole files": ({*MAKERS, "os.replace", "os.rename", "os.fsync", "os.umask", "shutil.move"}, {"files.py"}),
    "devices": ({"torch.cuda.is_available", "torch.cuda.device_count", "torch.backends.mps"}, {"machine.py"}),
    "threads": ({"os.cpu_count", "os.sched_getaffinity"}, {"machine.py"}),
    "users' modules": ({"importlib.util.spec_from_file_location", "spec_from_file_location"}, {"registry.py"}),
    "tracebacks of torch": ({"ShapeProp", "symbolic_trace", "traceback.print_exc"}, set()),
}


@pytest.mark.parametrize("what", SINGLE)
def test_it_is_done_in_one_place(what: str) -> None:
    names, places = SINGLE[what]
    found = {str(path.relative_to(PACKAGE)): calls_of(path) & names for path in FILES}
    elsewhere = {path: used for path, used in found.items() if used and path not in places}
    # The journal grows line by line, so it is made durable, not replaced.
    assert {path: used for path, used in elsewhere.items() if (path, used) != (JOURNAL, {"os.fsync"})} == {}
    assert all(found[place] for place in places)


JOURNAL = "evaluation/journal.py"


def test_files_and_bodies_are_short() -> None:
    texts = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in FILES}
    assert {path for path, text in texts.items() if text.count("\n") > 250} == set()
    bodies = {
        f"{path}:{function.name}": function.body[ast.get_docstring(function) is not None :]
        for path, text in texts.items()
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef)
    }
    lengths = {name: body[-1].end_lineno - body[0].lineno + 1 for name, body in bodies.items() if body}
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def private_imports(path: Path) -> set[str]:
    """Return the private names, of modules too, that a file takes from other files of the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = [
        (node.module or "", alias)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iqa_armor")
        for alias in node.names
    ]
    known = {alias.asname or alias.name for _, alias in taken}
    reached = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known
    }
    names = {f"{module}.{alias.name}" for module, alias in taken} | reached
    return {
        name for name in names if any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    }


def test_no_file_reaches_into_the_private_names_of_another() -> None:
    assert {str(path): found for path in FILES if (found := private_imports(path))} == {}


def test_the_package_stays_small_and_its_tests_long_enough() -> None:
    lines, tested = (
        sum(path.read_text(encoding="utf-8").count("\n") for path in folder.rglob("*.py"))
        for folder in (PACKAGE, Path(__file__).parent)
    )
    assert lines <= 28_000
    assert tested >= 0.75 * lines


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['iqa-armor', '--help']\n"
        "from iqa_armor.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'PIL', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "harden" in done.stdout
