"""Datasets by the text that names them: `open_dataset("csv:labels.csv")`."""

import inspect
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from iqa_armor.data import DATASETS, RELEASES
from iqa_armor.data.base import Dataset
from iqa_armor.errors import DataError, calling, expanded
from iqa_armor.progress import Progress, silent

KONIQ10K_VARIABLE = "IQA_ARMOR_KONIQ10K"


def open_dataset(
    spec: str | Dataset,
    *,
    seed: int = 0,
    progress: Progress = silent,
    columns: str = "",
    image_root: Path | str | None = None,
) -> Dataset:
    """Return the dataset that a text such as `csv:labels.csv` or `synthetic` names; a dataset is returned as it is.

    Args:
        spec: NAME:LOCATION with a name of `DATASETS` or of an installed plug-in; or `package.module:NAME[:LOCATION]`,
            `path/file.py:NAME[:LOCATION]`, where NAME is a Dataset, or a function that is called with the spec and
            the location, and with the other arguments where it has such parameters.
        seed: Seed of generated data whose spec names none; files do not depend on it.
        progress: Told while data is generated.
        columns: What the columns of a label file hold, as `image=name_image,mos=-dmos`, where they have other names
            than usual; scores of a column with a minus fall with quality, and are turned.
        image_root: Folder that image paths in a label file may also begin or lie in.

    Raises:
        DataError: If the name is unknown or the data is missing, incomplete or inconsistent.
    """
    if isinstance(spec, Dataset):
        return spec
    try:
        opener, location = DATASETS.find(spec)
    except DataError as error:
        path = expanded(spec)
        with suppress(OSError, ValueError):  # a word that can be no path
            if path.exists():
                raise DataError(f"{error}; did you mean {'csv' if path.is_file() else 'folder'}:{spec}?") from error
        raise
    if isinstance(opener, Dataset):
        return opener
    told = {"columns": columns, "image_root": image_root and expanded(image_root)}
    options = {"seed": seed, "progress": progress} | {name: value for name, value in told.items() if value}
    return _opened(opener, spec, location, options)


def _opened(opener: Callable[..., object], spec: str, location: str, options: Mapping[str, object]) -> Dataset:
    takes = inspect.signature(opener).parameters
    for name in {"columns", "image_root"} & {*options} - {*takes}:
        raise DataError(f"{spec} takes no --{name.replace('_', '-')}, which is for label files: csv:FILE")
    if not location and "location" in takes and takes["location"].default is inspect.Parameter.empty:
        raise DataError(f"{spec!r} names no place; write {spec.rstrip(':')}:PATH")
    with calling(spec, DataError, says="cannot be opened"):
        dataset = opener(spec, location, **{name: value for name, value in options.items() if name in takes})
    if not isinstance(dataset, Dataset):
        raise DataError(f"{spec} gave {type(dataset).__name__}, not a Dataset")
    return dataset


def default_spec() -> str:
    """Return the spec of the KonIQ-10k folder that the environment variable names; a DataError if it names none."""
    if folder := os.environ.get(KONIQ10K_VARIABLE, "").strip():
        return f"koniq10k:{folder}"
    own = "Give --data csv:FILE (columns image, mos, optional split) for images of your own"
    release = f"or set {KONIQ10K_VARIABLE} to a KonIQ-10k folder. {RELEASES['koniq10k']['get']}"
    rest = "--data synthetic needs no files, but its scores are computed, not human"
    raise DataError(f"no dataset is named. {own}, {release}. {rest}")
