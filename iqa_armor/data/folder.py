"""A user's own images without scores."""

from __future__ import annotations

from pathlib import Path

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.images import EXTENSIONS, FileImages
from iqa_armor.errors import DataError


def open_folder(spec: str, location: str) -> Dataset:
    """Return all images under a folder as one test split.

    Names are paths relative to the folder, with forward slashes, in sorted order. Hidden files and folders
    are left out.

    Raises:
        DataError: If the folder does not exist or holds no images.
    """
    folder = Path(location).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name a folder of images")
    found = {
        name: path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not _is_hidden(name := path.relative_to(folder).as_posix())
    }
    if not found:
        kinds = " ".join(sorted(EXTENSIONS))
        raise DataError(f"{folder} holds no images ({kinds}); name a folder that does")
    names = tuple(sorted(found))
    return Dataset(spec, {"test": ImageSet(names, FileImages(tuple(found[name] for name in names)))})


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
