"""Datasets by name."""

import tomllib
from importlib.resources import files
from typing import Any

from iqa_armor.errors import DataError
from iqa_armor.registry import Entry, Registry


def _accepts(found: Any, name: str) -> Any:
    from iqa_armor.data.base import Dataset

    if not isinstance(found, Dataset) and not callable(found):
        raise DataError(f"{name} is neither a Dataset nor a function (spec, location) that returns one")
    return found


_HOME = "iqa_armor.data"
RELEASES: dict[str, dict[str, Any]] = tomllib.loads(files(_HOME).joinpath("releases.toml").read_text("utf-8"))
_OF = f"{_HOME}.releases"
# Each value is called with the whole spec and what stands behind the name, see `iqa_armor.data.specs.open_dataset`.
DATASETS: Registry[Any] = Registry(
    "dataset",
    {
        "synthetic": Entry(f"{_HOME}.synthetic:open_synthetic", "scenes made on the spot, scores computed; no files"),
        "csv": Entry(f"{_HOME}.csv_file:open_csv", "FILE: columns image, mos, optional split, or as --columns says"),
        "folder": Entry(f"{_HOME}.csv_file:open_folder", "DIR: every image below it; no scores"),
        **{
            name: Entry(f"{_OF}:{row.get('home', 'release')}", row["says"], None if "home" in row else {"name": name})
            for name, row in RELEASES.items()
        },
    },
    group="iqa_armor.datasets",
    accepts=_accepts,
    also="package.module:NAME:LOCATION or path/file.py:NAME:LOCATION for your own",
    error=DataError,
)
