"""Score image files."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from iqa_armor.data.images import read_image
from iqa_armor.defenses.base import Defended
from iqa_armor.machine import capped, choose_device
from iqa_armor.models.base import QualityModel, finite
from iqa_armor.pipeline.image_files import find_images
from iqa_armor.progress import Progress, silent


def score_files(
    model: QualityModel,
    paths: Sequence[Path | str],
    *,
    device: torch.device | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[tuple[Path, float]]:
    """Return (path, score) of image files, one at a time, in the given order; folders are searched.

    The model is moved to the device. A defense draws the same for every image, so no score depends on other images.
    Files that are missing or no images are a DataError; a score that is not finite is a ModelLoadError.
    """
    files = find_images(paths)
    chosen = device or choose_device()
    model.eval().to(chosen)
    scored = []
    with torch.inference_mode(), capped() if chosen.type == "cpu" else nullcontext():
        for done, file in enumerate(files, start=1):
            image = model.prepare(read_image(file)).unsqueeze(0)
            if isinstance(model, Defended):
                model.reseed(seed)
            scored.append((file, finite(model, model(image.to(chosen)), file)))
            progress("scoring", done, len(files))
    return scored
