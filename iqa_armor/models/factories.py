"""Find the factory that `--arch` names: a built-in architecture, an importable function or one in a file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import QualityModel
from iqa_armor.models.families import FAMILIES


def build(arch: str, architectures: Mapping[str, Callable[[], nn.Module]]) -> nn.Module:
    """Return a new network or QualityModel of the named architecture, with its initial weights.

    Args:
        arch: A key of `architectures`, `timm:NAME`, `pyiqa:NAME`, `package.module:factory` or
            `path/file.py:factory`. A factory takes no arguments and returns a QualityModel, or an nn.Module on
            normalised input.
        architectures: The built-in ones.

    Raises:
        ModelLoadError: If there is no such architecture or factory, or it returns something else.
    """
    factory = architectures[arch] if arch in architectures else _user_factory(arch, architectures)
    try:
        network = factory()
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ImportError, OSError) as error:
        raise ModelLoadError(f"the factory {arch!r} failed: {type(error).__name__}: {error}") from error
    if isinstance(network, QualityModel):
        network.arch = arch
        return network
    if not isinstance(network, nn.Module):
        raise ModelLoadError(
            f"the factory {arch!r} returned {type(network).__name__}; it must return an nn.Module or QualityModel"
        )
    return network


def _user_factory(arch: str, architectures: Mapping[str, Any]) -> Callable[[], Any]:
    family, _, member = arch.partition(":")
    if family in FAMILIES:
        return partial(FAMILIES[family], member)
    source, colon, name = arch.rpartition(":")
    if not colon or not source:
        near = difflib.get_close_matches(arch, architectures, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ModelLoadError(
            f"there is no built-in architecture {arch!r}; {hint}those of other packages are named "
            "timm:NAME and pyiqa:NAME, own ones package.module:factory or path/file.py:factory"
        )
    module = _module_from_file(Path(source)) if source.endswith(".py") else _module_by_name(source)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ModelLoadError(f"{source} has no function {name!r}")
    found: Callable[[], Any] = factory
    return found


def _module_by_name(name: str) -> ModuleType:
    # A console script has its own folder first on the path; a user's package lies in the working folder.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError, ValueError) as error:
        raise ModelLoadError(f"cannot import {name!r}: {error}") from error


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelLoadError(f"there is no architecture file {path}")
    name = f"iqa_armor_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelLoadError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError, TypeError, ValueError, AttributeError, OSError) as error:
        del sys.modules[name]
        raise ModelLoadError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module
