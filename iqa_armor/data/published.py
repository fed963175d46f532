"""Releases of published databases: where their files lie, and label files in MATLAB's format."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iqa_armor.data.problems import Problems
from iqa_armor.errors import DataError

# What scipy raises on files that are cut short, damaged (NameError: a bug of its own), or of MATLAB 7.3.
_BROKEN = (OSError, ValueError, TypeError, LookupError, NameError, EOFError, NotImplementedError, zlib.error)


def release_folder(location: str, label: str, how_to_get: str) -> Path:
    """Return the folder that holds a release's label file: the named one or, unpacked, one below it.

    Args:
        location: Path that the user named.
        label: Path of the label file within the release.
        how_to_get: Where the release is and what is to be unpacked, for messages.

    Raises:
        DataError: If there is no such folder or it holds no label file.
    """
    folder = Path(location).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. {how_to_get}")
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if (place / label).is_file():
            return place
    raise DataError(f"{folder} holds no {label}. {how_to_get}")


def image_file(folder: Path, name: str, problems: Problems) -> Path:
    """Return the file of an image, noting names that are no plain file names and files that do not exist."""
    path = folder / name
    if not name or Path(name).name != name or "\\" in name:
        problems.add("image names that are empty or paths", repr(name))
    elif not path.is_file():
        problems.add(f"missing images in {folder}", name)
    return path


def existing(path: Path) -> Path | None:
    """Return the path if it is a file."""
    return path if path.is_file() else None


def read_numbers(path: Path, name: str) -> NDArray[np.float64]:
    """Return a numeric variable of a .mat file as a vector (N,).

    Raises:
        DataError: If the file cannot be read, lacks the variable, or holds something else in it.
    """
    values = _variable(path, name)
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path} holds no numbers in {name}; unpack the release again")
    return values.astype(np.float64).ravel()


def read_texts(path: Path, name: str) -> list[str]:
    """Return a cell array of texts in a .mat file, in column order.

    Raises:
        DataError: If the file cannot be read, lacks the variable, or a cell holds no text.
    """
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
