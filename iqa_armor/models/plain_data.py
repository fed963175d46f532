"""Stand-ins for the classes of values that training scripts save beside weights, so that none of their code runs."""

import re
import tomllib
from collections import OrderedDict
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c8|c16)")
_NUMPY_HOMES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")


class _Opaque:
    """An object of a class that is not imported; what it held is dropped."""

    def __init__(self, *_: object) -> None: ...

    __setstate__ = __init__


class _Items:
    """A mapping of a class that is not imported: its items, in a plain one."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _Entries:
    """A sequence of a class that is not imported: its entries, in a list."""

    def __new__(cls, *_: object) -> Any:
        return []


class _Kind:
    """NumPy's data type, of which plain numbers are read and all else is dropped."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = str(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if str(state[1]) in "<>":
            self.code = f"{state[1]}{self.code}"

    def numbers(self, raw: object) -> NDArray[Any] | None:
        """Return the numbers in raw bytes; None where they are of another kind."""
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(content, bytes | bytearray) or not _NUMBER.fullmatch(self.code):
            return None
        return np.frombuffer(bytes(content), self.code)


class PickledArray:
    """NumPy's array; `value` is None where it does not hold numbers."""

    value: NDArray[Any] | None = None

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, kind, is_fortran, raw = state[-4:]
        numbers = kind.numbers(raw) if isinstance(kind, _Kind) else None
        if numbers is not None:
            native = numbers.astype(numbers.dtype.newbyteorder("="))
            self.value = native.reshape(shape, order="F" if is_fortran else "C")


def _scalar(kind: object, raw: object = b"") -> object:
    numbers = kind.numbers(raw) if isinstance(kind, _Kind) else None
    return None if numbers is None or numbers.size != 1 else numbers[0].item()


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return what stands for which name, as `torch.serialization.safe_globals` takes it."""
    known = tomllib.loads(resources.files("iqa_armor.models").joinpath("plain_data.toml").read_text("utf-8"))
    named = [(stand, *each) for stand, kind in ((_Items, "items"), (_Opaque, "opaque")) for each in known[kind].items()]
    plain = [(stand, f"{home}.{name}") for stand, home, names in named for name in names.split()]
    numpy: Any = {"dtype": _Kind, "ndarray": PickledArray, "scalar": _scalar, "_reconstruct": PickledArray}
    arrays = [(stand, f"{home}.{name}") for home in _NUMPY_HOMES for name, stand in numpy.items()]
    return [*plain, *arrays, (_Entries, "collections.deque")]
