"""The error of a file or model, the bounds on what a file may hold, and checks of constructor arguments."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

from iqa_armor.graph.calls import hides_network, is_allowed

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
MAX_CHANNELS = 2**17
MAX_KERNEL = MAX_PADDING = 2**10
_LARGEST = sys.float_info.max  # whole numbers may be larger, and no float then
ArgumentCheck = Callable[[object], object]


class FormatError(Exception):
    """Why a file cannot be opened or a model cannot be stored, and in which module; the callers add which file."""

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(text)
        self.place = place


@contextmanager
def within(place: str, error: type[Exception] = FormatError) -> Iterator[None]:
    """Raise `error` in place of a FormatError of the block, saying first where it arose."""
    try:
        yield
    except FormatError as failure:
        raise error(f"{place} {failure}") from failure


def shown(value: object) -> str:
    """Return a short printable form of something that a stranger wrote."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_path(path: object) -> str:
    """Return a dotted module path whose every part is an ordinary name or an index."""
    if not isinstance(path, str) or not 0 < len(path) <= MAX_NAME:
        raise FormatError(f"{shown(path)} is no module path")
    for part in path.split("."):
        if not is_allowed(part):
            raise FormatError(f"{shown(path)} is no module path: {shown(part)} is not allowed as a name in it")
    if hides_network(path):
        raise FormatError(f"{shown(path)} is no module path: it would hide the network itself")
    return path


def expect_fields(value: object, names: Set[str], where: str) -> dict[str, object]:
    """Return a JSON object that has exactly the named fields."""
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be a JSON object, got {shown(value)}")
    if unknown := sorted(value.keys() - names):
        raise FormatError(f"{where} has unknown fields: {', '.join(map(shown, unknown[:10]))}")
    if missing := sorted(names - value.keys()):
        raise FormatError(f"{where} lacks {', '.join(missing)}")
    return value


def must_be(what: str, passes: Callable[[Any], bool]) -> ArgumentCheck:
    """Return a check that passes a value on, or says what it must be."""

    def check(value: object) -> object:
        if not passes(value):
            raise FormatError(f"must be {what}, got {shown(value)}")
        return value

    return check


def integer(low: int, high: int) -> ArgumentCheck:
    return must_be(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def number(low: float = -math.inf, high: float = math.inf) -> ArgumentCheck:
    least, most = max(low, -_LARGEST), min(high, _LARGEST)
    what = f"a finite number from {low} to {high}"
    return must_be(what, lambda value: type(value) in (int, float) and least <= value <= most)


def choice(*texts: str) -> ArgumentCheck:
    return must_be(f"one of {', '.join(texts)}", lambda value: isinstance(value, str) and value in texts)


def sequence(part: ArgumentCheck, shortest: int, longest: int | None = None) -> ArgumentCheck:
    """Return a check for an array of `shortest` to `longest` parts, which becomes a tuple."""
    most = longest or shortest

    def check(value: object) -> object:
        if not isinstance(value, list) or not shortest <= len(value) <= most:
            raise FormatError(f"must be an array of {shortest} to {most} values, got {shown(value)}")
        return tuple(part(item) for item in value)

    return check


def either(first: ArgumentCheck, second: ArgumentCheck) -> ArgumentCheck:
    """Return a check that passes what one of two checks passes."""

    def check(value: object) -> object:
        try:
            return first(value)
        except FormatError as error:
            with within(f"{error}; or it"):
                return second(value)

    return check


def optional(check: ArgumentCheck) -> ArgumentCheck:
    return lambda value: None if value is None else check(value)


def per_axis(axes: int, low: int, high: int) -> ArgumentCheck:
    """Return a check for one whole number in [low, high], or one for each spatial axis."""
    return either(integer(low, high), sequence(integer(low, high), axes))


def checked_fields(stored: object, checks: Mapping[str, ArgumentCheck], where: str) -> dict[str, Any]:
    """Return a JSON object that has exactly the fields of `checks`, each as its check returns it."""
    fields = expect_fields(stored, checks.keys(), where)
    checked = {}
    for name, check in checks.items():
        with within(f"{where}: {name}"):
            checked[name] = check(fields[name])
    return checked


flag = must_be("true or false", lambda value: isinstance(value, bool))
channels = integer(1, MAX_CHANNELS)
any_number = number()
dimension = integer(-8, 8)
share = number(0, 1)
epsilon = number(0, 1e6)
