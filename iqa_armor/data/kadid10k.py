"""KADID-10k: 81 photographs, each distorted in 25 ways at 5 levels, with opinion scores."""

from iqa_armor.data.base import Dataset
from iqa_armor.data.labelled import LabelledImage, find_labels, labelled_dataset, plain_name
from iqa_armor.data.problems import Problems
from iqa_armor.data.table import read_table

HOW_TO_GET = (
    "KADID-10k is at https://database.mmsp-kn.de/kadid-10k-database.html: unpack kadid10k.zip, which holds "
    "dmos.csv and images/"
)


def open_kadid10k(spec: str, location: str) -> Dataset:
    """Return KADID-10k from its folder or the one above, divided by a hash of the reference's name.

    Its column `dmos` averages the ratings of a five-point impairment scale on which 5 is imperceptible, so it rises
    with quality in spite of its name and is taken as it is.

    Source: Lin, Hosu and Saupe, "KADID-10k: A Large-scale Artificially Distorted IQA Database", QoMEX 2019. It has no
    official split; this one is by reference (ours).
    """
    file = find_labels(location, ["dmos.csv"], how_to_get=HOW_TO_GET)
    problems, folder = Problems(spec), file.parent / "images"
    rows = read_table(file, ("dist_img", "ref_img", "dmos"))
    images = [
        LabelledImage(
            name,
            folder / plain_name(name, problems),
            row.score("dmos", problems),
            scene=scene,
            reference=folder / scene,
        )
        for row, name, scene in ((row, row["dist_img"], row["ref_img"]) for row in rows)
    ]
    problems.extend("rows without a reference", (f"line {row.line}" for row in rows if not row["ref_img"]))
    labels = "dmos as published: it rises with quality, 1 to 5"
    return labelled_dataset(images, problems, folder=folder, labels=labels, advice=HOW_TO_GET)
