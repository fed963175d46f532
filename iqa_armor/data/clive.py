"""CLIVE, LIVE In the Wild: 1,162 photographs of mobile cameras with opinion scores."""

from __future__ import annotations

from iqa_armor.data.base import Dataset
from iqa_armor.data.problems import Problems
from iqa_armor.data.published import image_file, read_numbers, read_texts, release_folder
from iqa_armor.data.tables import Entry, check_constant, check_duplicates, check_finite, hashed_splits, image_sets
from iqa_armor.errors import DataError

NAME_FILE = "Data/AllImages_release.mat"
SCORE_FILE = "Data/AllMOS_release.mat"
PRACTICE = 7  # the first of the list, in Images/trainingImages: shown to every subject to learn the task
HOW_TO_GET = (
    "LIVE In the Wild is at https://live.ece.utexas.edu/research/ChallengeDB/index.html: unpack "
    "ChallengeDB_release.zip, which holds Data/ and Images/"
)


def open_clive(spec: str, location: str) -> Dataset:
    """Return LIVE In the Wild, divided 70/10/20 by a hash of the names.

    The seven practice images at the head of the list are left out: they are not among the 1,162 of the
    publication, and every subject saw them first.

    Args:
        spec: The user's text, for messages and records.
        location: Folder with `Data` and `Images`, or one with that folder in it.

    Raises:
        DataError: If label files or images are missing, or the two lists differ in length.

    Source:
        Ghadiyaram and Bovik, "Massive Online Crowdsourced Study of Subjective and Objective Picture Quality",
        IEEE TIP 2016. It has no official split; this one is by name (ours).
    """
    folder = release_folder(location, NAME_FILE, HOW_TO_GET)
    names = read_texts(folder / NAME_FILE, "AllImages_release")
    mos = read_numbers(folder / SCORE_FILE, "AllMOS_release").tolist()
    if len(names) != len(mos) or len(names) <= PRACTICE:
        raise DataError(f"{folder}/Data names {len(names)} images but scores {len(mos)}. {HOW_TO_GET}")
    names, mos = names[PRACTICE:], mos[PRACTICE:]
    problems = Problems(spec)
    entries = [
        Entry(name, image_file(folder / "Images", name, problems), split, score)
        for name, split, score in zip(names, hashed_splits(names), mos, strict=True)
    ]
    check_finite(entries, problems)
    check_duplicates(entries, problems)
    check_constant(entries, problems)
    problems.raise_if_any(HOW_TO_GET)
    return Dataset(spec, image_sets(entries), labels="MOS as published, 0 to 100")
