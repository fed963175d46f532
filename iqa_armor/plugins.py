"""Import what a user names: `package.module:NAME` or `path/file.py:NAME`. This runs the user's code."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from iqa_armor.errors import ArmorError, UsageError, calling

_SPEC = re.compile(r"(?P<source>.+?\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)(?P<rest>:.*)?", re.S)


def split_spec(word: str) -> tuple[str, str, str] | None:
    """Return (source, name, the rest behind a further colon) of a word that names an object to import, else None."""
    match = _SPEC.fullmatch(word)
    return None if match is None else (match["source"], match["name"], (match["rest"] or ":")[1:])


def import_object(source: str, name: str, *, kind: str, error: type[ArmorError] = UsageError) -> Any:
    """Return an object of a user's own module; the module is run.

    Args:
        source: Importable module, also one in the working folder; or a path that ends in .py, which may import its
            neighbours.
        name: Attribute of it.
        kind: What messages call the object.
        error: Class of the error.

    Raises ArmorError of the class `error`, if the module is missing or fails, or has no such attribute.
    """
    module = _from_file(Path(source), kind, error) if source.endswith(".py") else _by_name(source, error)
    if not hasattr(module, name):
        raise error(f"{source} has no {kind} {name!r}")
    return getattr(module, name)


def _by_name(name: str, failure: type[ArmorError]) -> ModuleType:
    # A console script has its own folder first on the path; a user's package lies in the working folder.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with calling(f"module {name!r}", failure, says="cannot be imported"):
        return importlib.import_module(name)


def _from_file(path: Path, kind: str, failure: type[ArmorError]) -> ModuleType:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise failure(f"there is no file {path} that could hold the {kind}")
    name = f"iqa_armor_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise failure(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:  # as for a script, so that it finds its neighbours, now and later
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        with calling(str(path), failure, says="cannot be run"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
