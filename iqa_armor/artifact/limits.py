"""The error of a file or model, and the bounds on what a file may hold."""

MAX_HEADER_BYTES = 2**24  # graph, settings and tensor table of DenseNet-201 together take 0.4 MB
MAX_JSON_DEPTH = 32
MAX_NODES = 20_000
MAX_TENSORS = 50_000
MAX_ELEMENTS = 2**30  # of all tensors together; 4 GB in float32
MAX_OPERATIONS = 5 * 10**12  # of one pair of images
MAX_INTEGER = 2**31 - 1
MAX_ARGUMENT_DEPTH = 6
MAX_LENGTH = 4096  # of one list of arguments
MAX_NAME = 256


class FormatError(Exception):
    """Why a file cannot be opened or a model cannot be stored; the callers add which one."""


def shown(value: object) -> str:
    """Return a short printable form of something that a stranger wrote."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def expect_fields(value: object, names: frozenset[str], where: str) -> dict[str, object]:
    """Return a JSON object that has exactly the named fields."""
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be a JSON object, got {shown(value)}")
    if unknown := sorted(value.keys() - names):
        raise FormatError(f"{where} has unknown fields: {', '.join(map(shown, unknown[:10]))}")
    if missing := sorted(names - value.keys()):
        raise FormatError(f"{where} lacks {', '.join(missing)}")
    return value
