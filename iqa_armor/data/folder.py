"""A user's own images without scores."""

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.images import EXTENSIONS, FileImages
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
