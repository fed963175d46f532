"""Where a model came from, as plain values to store with it."""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from iqa_armor import __version__
from iqa_armor.data.base import Dataset
from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import QualityModel, state_digest
from iqa_armor.reading import reading


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file."""
    with reading(path, ModelLoadError), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of iqa-armor, Python and the libraries that numbers depend on."""
    names = ("torch", "torchvision", "torch-pruning", "safetensors", "accelerate", "numpy", "scipy")
    return {"iqa-armor": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


def without_times(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as files keep it: without what differs between two runs of one command."""
    epochs = [{key: value for key, value in each.items() if key != "seconds"} for each in record.get("epochs", ())]
    data = dict(record["data"])
    name, colon, place = data["spec"].partition(":")
    data["spec"] = name + colon + (Path(place).name if Path(place).is_absolute() else place)
    return {**record, "data": data, **({"epochs": epochs} if epochs else {})}


def provenance_of(model: QualityModel, dataset: Dataset, *, seed: int, **facts: Any) -> dict[str, Any]:
    """Return the record stored with a model made from `model` on `dataset`."""
    return {
        "source": {"name": model.name, "arch": model.arch, "weights": state_digest(model), "files": list(model.files)},
        "data": {
            "spec": dataset.spec,
            "fingerprint": dataset.fingerprint,
            "synthetic": dataset.is_synthetic,
            "files": [{"name": path.name, "sha256": sha256_of(path)} for path in dataset.files],
            "images": {split: len(images) for split, images in dataset.splits.items()},
        },
        "seed": seed,
        "versions": versions(),
        **facts,
    }
