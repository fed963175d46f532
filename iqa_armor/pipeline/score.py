"""Score image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from iqa_armor.data.images import EXTENSIONS, read_image
from iqa_armor.defenses.base import Defended
from iqa_armor.errors import DataError
from iqa_armor.machine import choose_device
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent


def score_files(
    model: QualityModel,
    paths: Sequence[Path],
    *,
    device: torch.device | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[tuple[Path, float]]:
    """Return (path, score) of image files, one at a time, in the given order; folders are searched.

    Args:
        model: Moved to the device.
        paths: Image files, or folders whose images are taken in the order of their names.
        device: Where to compute; None lets `choose_device` decide.
        seed: Of defenses that draw; every image gets the same draws, so no score depends on other images.
        progress: Receiver of progress.

    Raises:
        DataError: If a file is missing or no image; lists every such file.
    """
    files = find_images(paths)
    chosen = device or choose_device()
    model.eval().to(chosen)
    scored = []
    with torch.inference_mode():
        for done, file in enumerate(files, start=1):
            image = model.prepare(read_image(file)).unsqueeze(0)
            if isinstance(model, Defended):
                model.reseed(seed)
            scored.append((file, float(model(image.to(chosen)))))
            progress("scoring", done, len(files))
    return scored


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
