"""Label files in MATLAB's format."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iqa_armor.errors import DataError

# What scipy raises on files that are cut short, damaged (NameError: a bug of its own), or of MATLAB 7.3.
_BROKEN = (OSError, ValueError, TypeError, LookupError, NameError, EOFError, NotImplementedError, zlib.error)


def read_numbers(path: Path, name: str) -> list[float]:
    """Return a numeric variable of a .mat file, flattened; a DataError if the file holds no such thing."""
    values = _variable(path, name)
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path} holds no numbers in {name}; unpack the release again")
    return [float(value) for value in values.ravel()]


def read_texts(path: Path, name: str) -> list[str]:
    """Return a cell array of texts in a .mat file, in column order; a DataError if the file holds no such thing."""
    cells = [np.asarray(cell) for cell in _variable(path, name).ravel(order="F")]
    if not all(cell.size == 1 and cell.dtype.kind == "U" for cell in cells):
        raise DataError(f"{path} holds no list of names in {name}; unpack the release again")
    return [str(cell.item()).strip() for cell in cells]


def _variable(path: Path, name: str) -> NDArray[Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(path, variable_names=[name])
    except (*_BROKEN, MatReadError) as error:
        raise DataError(f"{path} cannot be read: {error}; unpack the release again") from error
    if name not in found:
        raise DataError(f"{path} holds no variable {name}; unpack the release again")
    return np.asarray(found[name])
