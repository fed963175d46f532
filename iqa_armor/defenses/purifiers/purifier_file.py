"""Files and folders of purifiers."""

from pathlib import Path

from iqa_armor.errors import ModelLoadError


def existing(path: str, *, owner: str, is_folder: bool = False) -> Path:
    """Return a path that is there, and is a file or a folder as wanted; a ModelLoadError refuses others."""
    found, wanted = Path(path), "folder" if is_folder else "file"
    if not (found.is_dir() if is_folder else found.is_file()):
        seen = "is a file" if found.is_file() else "is a folder" if found.is_dir() else "does not exist"
        raise ModelLoadError(f"{path} {seen}; the purifier {owner} takes a {wanted}: {owner}:path={wanted.upper()}")
    return found
