"""Image files that a user names: find them, and refuse broken ones before work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from iqa_armor.data.base import ImageSet
from iqa_armor.data.images import EXTENSIONS, FileImages
from iqa_armor.data.problems import Problems
from iqa_armor.errors import DataError


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the image files among and below the given paths, in the given order; folders are searched.

    Raises:
        DataError: If a file is missing, listing all such files, or there is none.
    """
    files = [file for path in paths for file in _files(path)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise DataError(
            f"no such image: {', '.join(missing)}" if missing else f"no images in {', '.join(map(str, paths))}"
        )
    return files


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)


def require_readable(images: ImageSet) -> None:
    """Refuse broken files.

    Raises:
        DataError: Listing all that cannot be read.
    """
    problems = Problems("these images")
    for position, name in zip(images.positions, images.names, strict=True):
        try:
            if isinstance(images.read, FileImages):
                images.read.check(position)
        except DataError as error:
            problems.add("unreadable images", f"{name} ({error})")
    problems.raise_if_any("mend them or leave them out")
