"""Datasets by name."""

from typing import Any

from iqa_armor.errors import DataError
from iqa_armor.registry import Entry, Registry


def _accepts(found: Any, name: str) -> Any:
    from iqa_armor.data.base import Dataset

    if not isinstance(found, Dataset) and not callable(found):
        raise DataError(f"{name} is neither a Dataset nor a function (spec, location) that returns one")
    return found


# Each value is called with the whole spec and what stands behind the name, see `iqa_armor.data.specs.open_dataset`.
DATASETS: Registry[Any] = Registry(
    "dataset",
    {
        "synthetic": Entry("iqa_armor.data.synthetic:open_synthetic", "made on the spot, scores computed; no files"),
        "csv": Entry("iqa_armor.data.csv_file:open_csv", "label file with columns image, mos, optional split"),
        "folder": Entry("iqa_armor.data.folder:open_folder", "folder of images without scores"),
        "koniq10k": Entry("iqa_armor.data.koniq10k:open_koniq10k", "folder of KonIQ-10k, its official split"),
        "kadid10k": Entry("iqa_armor.data.kadid10k:open_kadid10k", "folder of KADID-10k, split by reference"),
        "live": Entry("iqa_armor.data.live:open_live", "folder of LIVE release 2, split by reference"),
        "spaq": Entry("iqa_armor.data.spaq:open_spaq", "folder of SPAQ, split by name"),
        "clive": Entry("iqa_armor.data.clive:open_clive", "folder of LIVE In the Wild, split by name"),
        "nips2017": Entry("iqa_armor.data.nips2017:open_nips2017", "folder of NIPS 2017 images, own size, no scores"),
    },
    group="iqa_armor.datasets",
    accepts=_accepts,
    also="package.module:NAME:LOCATION or path/file.py:NAME:LOCATION for your own",
    error=DataError,
)
