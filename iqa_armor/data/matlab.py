"""Label files in MATLAB's format, read in a process of its own: what scipy runs for them in C crashes on some files."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iqa_armor.bounded import worker
from iqa_armor.errors import DataError, reading

AGAIN = "unpack the release again"


def read_numbers(path: Path, name: str) -> list[float]:
    """Return a numeric variable of a .mat file, flattened; a DataError if the file holds no such thing."""
    return _read("numbers", path, name)


def read_texts(path: Path, name: str) -> list[str]:
    """Return a cell array of texts in a .mat file, in column order; a DataError if the file holds no such thing."""
    return _read("texts", path, name)


def numbers(path: str, name: str, _: bytes) -> tuple[list[float], bytes]:
    """Return what `read_numbers` does; called in a process of its own."""
    values = _variable(path, name)
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path} holds no numbers in {name}; {AGAIN}")
    return [float(value) for value in values.ravel()], b""


def texts(path: str, name: str, _: bytes) -> tuple[list[str], bytes]:
    """Return what `read_texts` does; called in a process of its own."""
    cells = [np.asarray(cell) for cell in _variable(path, name).ravel(order="F")]
    if not all(cell.size == 1 and cell.dtype.kind == "U" for cell in cells):
        raise DataError(f"{path} holds no list of names in {name}; {AGAIN}")
    return [str(cell.item()).strip() for cell in cells], b""


def _read(function: str, path: Path, name: str) -> list[Any]:
    with reading(path, DataError, says="cannot be read", advice=AGAIN):
        found: list[Any] = worker().call(f"iqa_armor.data.matlab:{function}", str(path), name)[0]
        return found


def _variable(path: str, name: str) -> NDArray[Any]:
    from scipy.io import loadmat

    found = loadmat(path, variable_names=[name], appendmat=False)
    if name not in found:
        raise DataError(f"{path} holds no variable {name}; {AGAIN}")
    return np.asarray(found[name])
