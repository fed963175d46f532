"""`iqa-armor doctor`: what this machine has for the work."""

import os
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from iqa_armor.cli.arguments import Machine
from iqa_armor.cli.console import say, say_next, show_if_json
from iqa_armor.cli.options import options


@options()
def doctor(machine: Machine) -> None:
    """Also where it would write, and whether it may.

    Examples:
        iqa-armor doctor
        iqa-armor doctor --json
    """
    import torch
    from packaging.requirements import Requirement

    from iqa_armor.data.specs import KONIQ10K_VARIABLE
    from iqa_armor.machine import cuda_devices, usable_processors
    from iqa_armor.pipeline.card import versions

    lacking: dict[str, list[str]] = {}
    for needed in map(Requirement, (requires("iqa-armor") or []) if _is_installed("iqa-armor") else []):
        if needed.name != "iqa-armor" and (extra := str(needed.marker or "").partition("extra == ")[2].strip("\"'")):
            lacking.setdefault(extra, []).extend([] if _is_installed(needed.name) else [needed.name])
    here, disk = Path.cwd(), shutil.disk_usage(".")
    found: dict[str, dict[str, Any]] = {
        "versions": versions(),
        "device": {"chosen": str(machine.chosen()), "CUDA devices": ", ".join(cuda_devices()) or "none"},
        "processors": {"usable": usable_processors(), "threads of an operation": torch.get_num_threads()},
        "extras": {extra: f"lacks {', '.join(names)}" if names else "installed" for extra, names in lacking.items()},
        "disk": {"folder": str(here), "free": f"{disk.free / 2**30:.1f} GiB", "writable": os.access(here, os.W_OK)},
        "data": {KONIQ10K_VARIABLE: os.environ.get(KONIQ10K_VARIABLE, "not set")},
    }
    if show_if_json(found):
        return
    for name, value in found.items():
        say(f"{name}:", *(f"  {part} {told}" for part, told in value.items()))
    say_next("demo")


def _is_installed(name: str) -> bool:
    with suppress(PackageNotFoundError):
        return bool(version(name))
    return False
