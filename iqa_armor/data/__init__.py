"""Datasets by name."""

from typing import Any

from iqa_armor.errors import DataError
from iqa_armor.registry import Entry, Registry


def _accepts(found: Any, name: str) -> Any:
    from iqa_armor.data.base import Dataset

    if not isinstance(found, Dataset) and not callable(found):
        raise DataError(f"{name} is neither a Dataset nor a function (spec, location) that returns one")
    return found


_HOME = "iqa_armor.data"
# Each value is called with the whole spec and what stands behind the name, see `iqa_armor.data.specs.open_dataset`.
DATASETS: Registry[Any] = Registry(
    "dataset",
    {
        "synthetic": Entry(f"{_HOME}.synthetic:open_synthetic", "scenes made on the spot, scores computed; no files"),
        "csv": Entry(f"{_HOME}.csv_file:open_csv", "FILE: columns image, mos, optional split, or as --columns says"),
        "folder": Entry(f"{_HOME}.csv_file:open_folder", "DIR: every image below it; no scores"),
        "koniq10k": Entry(
            f"{_HOME}.releases:KONIQ10K",
            "DIR with koniq10k_distributions_sets.csv beside 1024x768/ or 512x384/; official test split",
        ),
        "kadid10k": Entry(
            f"{_HOME}.releases:KADID10K",
            "DIR of KADID-10k: dmos.csv, whose dmos rises with quality, and images/; split by reference",
        ),
        "live": Entry(
            f"{_HOME}.live:open_live",
            "DIR of LIVE release 2: dmos.mat, refnames_all.mat, jp2k/ … fastfading/; 100 − DMOS; split by reference",
        ),
        "spaq": Entry(
            f"{_HOME}.releases:SPAQ",
            "DIR of SPAQ: TestImage/ and Annotations/, as CSV or, with openpyxl, as published; split by name",
        ),
        "clive": Entry(
            f"{_HOME}.live:open_clive",
            "DIR of LIVE In the Wild: Data/, Images/; without practice images, split by name",
        ),
        "tid2013": Entry(f"{_HOME}.releases:TID2013", "DIR of TID2013: mos_with_names.txt; split by reference"),
        "csiq": Entry(
            f"{_HOME}.releases:CSIQ",
            "DIR of CSIQ: csiq.DMOS.xlsx with openpyxl, or its sheet all_by_image as csiq.DMOS.csv, src_imgs/ and "
            "dst_imgs/; 1 − DMOS; split by reference",
        ),
        "pipal": Entry(f"{_HOME}.releases:PIPAL", "DIR of PIPAL: Train_Label/, Train_Dist/; split by reference"),
        "flive": Entry(f"{_HOME}.releases:FLIVE", "DIR of FLIVE (PaQ-2-PiQ): labels_image.csv, database/"),
        "agiqa3k": Entry(f"{_HOME}.releases:AGIQA3K", "DIR of AGIQA-3K: data.csv beside the images; split by prompt"),
        "nips2017": Entry(
            f"{_HOME}.releases:open_nips2017",
            "DIR of NIPS 2017: images.csv and images/; no scores, used at its own size",
        ),
    },
    group="iqa_armor.datasets",
    accepts=_accepts,
    also="package.module:NAME:LOCATION or path/file.py:NAME:LOCATION for your own",
    error=DataError,
)
