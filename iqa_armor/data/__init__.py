"""Datasets by name: `open_dataset("csv:labels.csv")`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from iqa_armor.data.base import SPLITS, Dataset, ImageSet, Split, held_out
from iqa_armor.data.clive import open_clive
from iqa_armor.data.csv_folder import open_csv, open_folder
from iqa_armor.data.kadid10k import open_kadid10k
from iqa_armor.data.koniq10k import HOW_TO_GET, open_koniq10k
from iqa_armor.data.live import open_live
from iqa_armor.data.nips2017 import open_nips2017
from iqa_armor.data.spaq import open_spaq
from iqa_armor.data.synthetic import open_synthetic
from iqa_armor.errors import DataError

__all__ = [
    "DATASETS",
    "KONIQ10K_VARIABLE",
    "SPLITS",
    "Dataset",
    "ImageSet",
    "Split",
    "default_spec",
    "held_out",
    "open_dataset",
]

KONIQ10K_VARIABLE = "IQA_ARMOR_KONIQ10K"
DATASETS: Mapping[str, Callable[[str, str], Dataset]] = {
    "synthetic": open_synthetic,
    "csv": open_csv,
    "folder": open_folder,
    "koniq10k": open_koniq10k,
    "kadid10k": open_kadid10k,
    "live": open_live,
    "spaq": open_spaq,
    "clive": open_clive,
    "nips2017": open_nips2017,
}


def open_dataset(spec: str, *, seed: int = 0, on_progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Return the dataset that a text such as `csv:labels.csv` or `synthetic` names.

    Args:
        spec: `synthetic[:SETTINGS]`, `csv:FILE`, or KIND:DIR with KIND one of folder, koniq10k, kadid10k, live,
            spaq, clive, nips2017.
        seed: Seed of generated data whose spec names none; files do not depend on it.
        on_progress: Called with (done, in all) while data is generated.

    Raises:
        DataError: If the kind is unknown or the data is missing, incomplete or inconsistent.
    """
    kind, _, location = spec.partition(":")
    if kind not in DATASETS:
        raise DataError(_unknown(spec, kind))
    if kind == "synthetic":
        return open_synthetic(spec, location, seed=seed, on_progress=on_progress)
    if not location:
        raise DataError(f"{spec!r} names no place; write {kind}:{'FILE' if kind == 'csv' else 'DIR'}")
    return DATASETS[kind](spec, location)


def _unknown(spec: str, kind: str) -> str:
    known = ", ".join(DATASETS)
    path = Path(spec).expanduser()
    if path.is_file() or path.is_dir():
        guess = f"; did you mean {'csv' if path.is_file() else 'folder'}:{spec}?"
    else:
        nearest = difflib.get_close_matches(kind.lower(), DATASETS, n=1)
        guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown dataset kind {kind!r} in {spec!r}; known are {known}{guess}"


def default_spec() -> str:
    """Return the spec of the KonIQ-10k folder that the environment variable names.

    Raises:
        DataError: If the variable is unset or empty.
    """
    folder = os.environ.get(KONIQ10K_VARIABLE, "").strip()
    if folder:
        return f"koniq10k:{folder}"
    raise DataError(
        "no dataset is named. Give --data csv:FILE (columns image, mos, optional split) for images of your "
        f"own, or set {KONIQ10K_VARIABLE} to a KonIQ-10k folder. {HOW_TO_GET}. "
        "--data synthetic needs no files, but its scores are computed, not human"
    )
