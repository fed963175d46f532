"""The table of stored layers, part three: our own blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iqa_armor.artifact.checks import MAX_CHANNELS, ArgumentCheck, choice, integer, sequence
from iqa_armor.artifact.limits import FormatError, shown
from iqa_armor.artifact.stored_layer import Derived, Fields, StoredLayer
from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.tokens import TokenBlock


def _config(checks: dict[str, ArgumentCheck]) -> Fields:
    """Return the fields of one of our blocks, which says its constructor's arguments itself."""

    def reader(name: str) -> Callable[[Any], object]:
        return lambda block: block.config()[name]

    return {name: Derived(check, reader(name)) for name, check in checks.items()}


def _backend(value: object) -> object:
    """Return the name of a known backend; naming one in a file imports nothing but what is installed for that."""
    if not isinstance(value, str) or not BACKENDS.knows(value):
        raise FormatError(f"must be one of {BACKENDS.summary()}, got {shown(value)}")
    return value


BLOCKS: dict[str, StoredLayer] = {
    "iqa_armor.ortho.RobustBlock": StoredLayer(
        RobustBlock,
        _config(
            {
                "channels": integer(2, MAX_CHANNELS),
                "backend": _backend,
                "pool": choice("square", "none"),
            }
        ),
        ("features",),
        lambda given: {"reduction.weight": (given["channels"] // 2, given["channels"], 1, 1)},
    ),
    "iqa_armor.ortho.TokenBlock": StoredLayer(
        TokenBlock,
        _config(
            {
                "channels": integer(2, MAX_CHANNELS),
                "size": sequence(integer(1, 2**14), 2),
                "extra": integer(0, 2**14),
                "backend": _backend,
            }
        ),
        ("tokens",),
        lambda given: {"block.reduction.weight": (given["channels"] // 2, given["channels"], 1, 1)},
    ),
}
