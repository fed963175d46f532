"""Image files that a user names: find them, and refuse broken ones before work starts."""

from collections.abc import Sequence
from pathlib import Path

from iqa_armor.data.base import ImageSet
from iqa_armor.data.images import EXTENSIONS, FileImages
from iqa_armor.data.problems import Problems
from iqa_armor.errors import DataError


def find_images(paths: Sequence[Path | str]) -> list[Path]:
    """Return the image files among and below the given paths, in the given order; folders are searched.

    Files that are missing, which are all listed, or no file at all are a DataError.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        below = (file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS) if path.is_dir() else (path,)
        files += sorted(below)
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(f"no such image: {', '.join(missing)}")
    if not files:
        raise DataError(f"no images in {', '.join(map(str, paths))}")
    return files


def require_readable(images: ImageSet) -> None:
    """Raise a DataError that lists all files that cannot be read, if there are any."""
    problems = Problems("these images")
    for position, name in zip(images.positions, images.names, strict=True):
        try:
            if isinstance(images.read, FileImages):
                images.read.check(position)
        except DataError as error:
            problems.add("unreadable images", f"{name} ({error})")
    problems.raise_if_any("mend them or leave them out")
