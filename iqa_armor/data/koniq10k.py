"""KonIQ-10k: 10,073 photographs with opinion scores and an official split."""

from collections.abc import Sequence
from pathlib import Path

from iqa_armor.data.base import Dataset
from iqa_armor.data.labelled import LabelledImage, find_labels, labelled_dataset, plain_name
from iqa_armor.data.problems import Problems
from iqa_armor.data.table import read_table
from iqa_armor.errors import DataError
from iqa_armor.reading import expanded

LABEL_FILES = ("koniq10k_distributions_sets.csv", "koniq10k_scores_and_distributions.csv")
COLUMNS = ("image_name", "mos", "set")
HOW_TO_GET = (
    "KonIQ-10k is at https://database.mmsp-kn.de/koniq-10k-database.html: unpack koniq10k_1024x768.zip or "
    "koniq10k_512x384.zip and put koniq10k_distributions_sets.csv into the same folder"
)


def open_koniq10k(spec: str, location: str) -> Dataset:
    """Return KonIQ-10k in its official split, from the folder with its label file and its images, also a level deeper.

    The images of the 1024x768 release are taken where both are present.

    Source: Hosu et al., "KonIQ-10k: An Ecologically Valid Database for Deep Learning of Blind Image Quality
    Assessment", IEEE TIP 2020, arXiv:1910.06180.
    """
    rows = read_table(find_labels(location, LABEL_FILES, how_to_get=HOW_TO_GET), COLUMNS)
    problems, names = Problems(spec), [row["image_name"] for row in rows]
    folder = _image_folder(expanded(location), names)
    images = [
        LabelledImage(name, folder / plain_name(name, problems), row.score("mos", problems), row.split("set", problems))
        for name, row in zip(names, rows, strict=True)
    ]
    return labelled_dataset(images, problems, folder=folder)


def _image_folder(folder: Path, names: Sequence[str]) -> Path:
    """Return the first folder of either release that holds any image of the label file."""
    releases, layouts = ("1024x768", "512x384"), ("{}", "koniq10k_{0}/{0}", "koniq10k_{}", "images/{}")
    for place in [*(layout.format(release) for release in releases for layout in layouts), "images", "."]:
        if (folder / place).is_dir() and any((folder / place / name).is_file() for name in names):
            return folder / place
    raise DataError(f"{folder} holds none of the images in 1024x768 or 512x384. {HOW_TO_GET}")
