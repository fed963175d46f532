"""SPAQ: 11,125 photographs of 66 smartphones with opinion scores."""

from iqa_armor.data.base import Dataset
from iqa_armor.data.labelled import LabelledImage, find_labels, labelled_dataset, plain_name
from iqa_armor.data.problems import Problems
from iqa_armor.data.table import read_table

LABEL_FILE = "Annotations/MOS and Image attribute scores"
HOW_TO_GET = f"SPAQ is at https://github.com/h4nwei/SPAQ: unpack TestImage/ and {LABEL_FILE}.xlsx"


def open_spaq(spec: str, location: str) -> Dataset:
    """Return SPAQ from its folder or the one above, divided by a hash of the names.

    The label file is an Excel sheet; a CSV export beside it is taken first, and the sheet itself needs openpyxl.

    Source: Fang, Zhu, Zeng, Ma and Wang, "Perceptual Quality Assessment of Smartphone Photography", CVPR 2020. It has
    no official split; this one is by name (ours).
    """
    file = find_labels(location, [f"{LABEL_FILE}.csv", f"{LABEL_FILE}.xlsx"], how_to_get=HOW_TO_GET)
    problems, folder = Problems(spec), file.parents[1] / "TestImage"
    images = [
        LabelledImage(name := row["image name"], folder / plain_name(name, problems), row.score("mos", problems))
        for row in read_table(file, ("image name", "mos"))
    ]
    return labelled_dataset(images, problems, folder=folder, labels="MOS as published, 0 to 100", advice=HOW_TO_GET)
