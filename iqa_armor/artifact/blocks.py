"""Our own blocks in the table of stored layers."""

from iqa_armor.artifact.checks import MAX_CHANNELS, choice, integer, sequence
from iqa_armor.artifact.limits import FormatError, shown
from iqa_armor.artifact.stored_layer import StoredLayer
from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.tokens import TokenBlock


def _backend(value: object) -> object:
    """Return the name of a known backend; naming one in a file imports nothing but what is installed for that."""
    if not isinstance(value, str) or not BACKENDS.knows(value):
        raise FormatError(f"must be one of {BACKENDS.summary()}, got {shown(value)}")
    return value


BLOCKS: dict[str, StoredLayer] = {
    "iqa_armor.ortho.RobustBlock": StoredLayer(
        RobustBlock,
        {"channels": integer(2, MAX_CHANNELS), "backend": _backend, "pool": choice("square", "none")},
        ("features",),
        lambda given: {"reduction.weight": (given["channels"] // 2, given["channels"], 1, 1)},
    ),
    "iqa_armor.ortho.TokenBlock": StoredLayer(
        TokenBlock,
        {
            "channels": integer(2, MAX_CHANNELS),
            "size": sequence(integer(1, 2**14), 2),
            "extra": integer(0, 2**14),
            "backend": _backend,
        },
        ("tokens",),
        lambda given: {"block.reduction.weight": (given["channels"] // 2, given["channels"], 1, 1)},
    ),
}
