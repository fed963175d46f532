"""NIPS 2017 adversarial-learning development set: photographs without scores, for robustness only."""

from pathlib import Path

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.images import FileImages
from iqa_armor.data.problems import Problems
from iqa_armor.data.table import read_labels
from iqa_armor.errors import DataError, expanded


def open_nips2017(spec: str, location: str) -> Dataset:
    """Return the images of a folder with `images.csv` (column ImageId) and `images/*.png`, at their own size."""
    folder = expanded(location)
    if not (folder / "images.csv").is_file():
        wanted = "the NIPS 2017 adversarial-learning development set (images.csv and images/*.png)"
        raise DataError(f"{folder} holds no images.csv; name the folder of {wanted}")
    table = read_labels(folder / "images.csv", ("imageid",))
    table.require(("imageid",))
    names = [f"{row['imageid']}.png" for row in table.rows]
    problems = Problems(spec)
    seen: set[str] = set()
    for name in names:
        if Path(name).name != name:
            problems.add("image names that are paths", name)
        elif name in seen:
            problems.add("duplicate images", name)
        elif not (folder / "images" / name).is_file():
            problems.add("missing images", f"images/{name}")
        seen.add(name)
    problems.raise_if_any()
    files = FileImages(tuple(folder / "images" / name for name in names))
    return Dataset(spec, {"test": ImageSet(tuple(names), files)}, keeps_size=True)
