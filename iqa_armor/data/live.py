"""LIVE release 2: 29 photographs with five kinds of distortion and difference opinion scores."""

from iqa_armor.data.base import Dataset
from iqa_armor.data.labelled import LabelledImage, find_labels, labelled_dataset
from iqa_armor.data.matlab import read_numbers, read_texts
from iqa_armor.data.problems import Problems
from iqa_armor.data.table import finite_score
from iqa_armor.errors import DataError

# The vectors run over these folders in this order, img1.bmp to the last of each.
FOLDERS = (("jp2k", 227), ("jpeg", 233), ("wn", 174), ("gblur", 174), ("fastfading", 174))
HOW_TO_GET = (
    "LIVE release 2 is at https://live.ece.utexas.edu/research/quality/subjective.htm: unpack "
    "databaserelease2.zip, which holds dmos.mat, refnames_all.mat, refimgs/ and one folder per distortion"
)


def open_live(spec: str, location: str) -> Dataset:
    """Return the 779 distorted images of a folder of LIVE release 2, divided by a hash of the reference's name.

    DMOS falls with quality, so the score is 100 − DMOS; published DMOS leave [0, 100] a little, scores do so too. The
    originals, which the vectors list as images of their own, are left out.

    Source: Sheikh, Sabir and Bovik, "A Statistical Evaluation of Recent Full Reference Image Quality Assessment
    Algorithms", IEEE TIP 2006. It has no official split; this one is by reference (ours).
    """
    file = find_labels(location, ["dmos.mat"], how_to_get=HOW_TO_GET)[0]
    problems, folder, pristine = Problems(spec), file.parent, file.parent / "refimgs"
    names = [f"{kind}/img{number}.bmp" for kind, count in FOLDERS for number in range(1, count + 1)]
    dmos, originals = read_numbers(file, "dmos"), read_numbers(file, "orgs")
    references = read_texts(folder / "refnames_all.mat", "refnames_all")
    for variable, length in (("dmos", len(dmos)), ("orgs", len(originals)), ("refnames_all", len(references))):
        if length != len(names):
            raise DataError(f"{variable} in {folder} has {length} entries, not {len(names)}. {HOW_TO_GET}")
    images = [
        LabelledImage(
            name, folder / name, finite_score(100 - value, name, problems), scene=scene, reference=pristine / scene
        )
        for name, value, is_original, scene in zip(names, dmos, originals, references, strict=True)
        if not is_original
    ]
    labels = "100 − DMOS, since DMOS falls with quality"
    return labelled_dataset(
        images, problems, folder=folder, labels=labels, advice=HOW_TO_GET, files=(file, folder / "refnames_all.mat")
    )
