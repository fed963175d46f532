"""CLIVE, LIVE In the Wild: 1,162 photographs of mobile cameras with opinion scores."""

from iqa_armor.data.base import Dataset
from iqa_armor.data.labelled import LabelledImage, find_labels, labelled_dataset, plain_name
from iqa_armor.data.matlab import read_numbers, read_texts
from iqa_armor.data.problems import Problems
from iqa_armor.data.table import finite_score
from iqa_armor.errors import DataError

PRACTICE = 7  # the first of the list, in Images/trainingImages: shown to every subject to learn the task
HOW_TO_GET = (
    "LIVE In the Wild is at https://live.ece.utexas.edu/research/ChallengeDB/index.html: unpack "
    "ChallengeDB_release.zip, which holds Data/ and Images/"
)


def open_clive(spec: str, location: str) -> Dataset:
    """Return LIVE In the Wild, divided by a hash of the names, from a folder with `Data` and `Images` or the one above.

    The seven practice images at the head of the list are left out: they are not among the 1,162 of the publication, and
    every subject saw them first.

    Source: Ghadiyaram and Bovik, "Massive Online Crowdsourced Study of Subjective and Objective Picture Quality", IEEE
    TIP 2016. It has no official split; this one is by name (ours).
    """
    file = find_labels(location, ["Data/AllImages_release.mat"], how_to_get=HOW_TO_GET)[0]
    names = read_texts(file, "AllImages_release")
    mos = read_numbers(file.with_name("AllMOS_release.mat"), "AllMOS_release")
    if len(names) != len(mos) or len(names) <= PRACTICE:
        raise DataError(f"{file.parent} names {len(names)} images but scores {len(mos)}. {HOW_TO_GET}")
    problems, folder = Problems(spec), file.parents[1] / "Images"
    images = [
        LabelledImage(name, folder / plain_name(name, problems), finite_score(score, name, problems))
        for name, score in zip(names[PRACTICE:], mos[PRACTICE:], strict=True)
    ]
    labels, files = "MOS as published, 0 to 100", (file, file.with_name("AllMOS_release.mat"))
    return labelled_dataset(images, problems, folder=folder, labels=labels, advice=HOW_TO_GET, files=files)
