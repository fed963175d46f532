"""Images without scores: a user's own folder, and NIPS 2017."""

from pathlib import Path

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.images import EXTENSIONS, FileImages
from iqa_armor.data.labelled import Problems
from iqa_armor.data.table import read_labels
from iqa_armor.errors import DataError, expanded


def open_folder(spec: str, location: str) -> Dataset:
    """Return all images under a folder, hidden ones left out, as one test split; no folder or image is a DataError.

    Names are paths relative to the folder, with forward slashes, in sorted order.
    """
    folder = expanded(location)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name a folder of images")
    files = [path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    found = {name: path for name, path in sorted(named.items()) if "/." not in f"/{name}"}
    if not found:
        raise DataError(f"{folder} holds no images ({' '.join(sorted(EXTENSIONS))}); name a folder that does")
    return Dataset(spec, {"test": ImageSet(tuple(found), FileImages(tuple(found.values())))})


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
