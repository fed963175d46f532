"""Files of attacked images: names, 8-bit levels, and the table."""

import csv
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iqa_armor.errors import UsageError
from iqa_armor.settings import LEVELS

TABLE = "attacks.csv"
_SLACK = 3e-5  # of a level: float32 pixels are off by half of it, which should not cost a level


@dataclass(frozen=True)
class AttackedImage:
    """One attacked image in its file, compared with the exact prepared clean image.

    Args:
        image: File of the clean image.
        file: Name of the attacked image, in the output folder.
        epsilon: L-infinity budget in 1/255; None where the attack's budget is another.
        clean_score: Score of the prepared clean image, before any rounding: what scoring `image` gives.
        attacked_score: Score of the 8-bit file, read again: what scoring `file` gives.
        gain: Attacked minus clean score, in model units.
        linf: Largest change of a pixel value, in 1/255.
        l2: Euclidean length of the change, pixels being in [0, 1].
        psnr: Decibels, at most 150.
        ssim: Structural similarity; NaN for images below 11×11 pixels.
    """

    image: Path
    file: str
    attack: str
    epsilon: float | None
    clean_score: float
    attacked_score: float
    gain: float
    linf: float
    l2: float
    psnr: float
    ssim: float

    def as_row(self) -> dict[str, Any]:
        return asdict(self) | {"image": str(self.image)}


COLUMNS = tuple(field.name for field in fields(AttackedImage))


def to_levels(attacked: Tensor, clean: Tensor, epsilon: float) -> Tensor:
    """Return attacked images as uint8, rounded to the nearest level inside the L-infinity ball.

    A clean pixel between two levels has up to one level fewer inside its ball than one on a level. Where its ball
    holds none, which takes an epsilon below half a level, it gets the level nearest to the clean value.

    Args:
        attacked: Images (N, 3, H, W) in [0, 1].
        clean: Images in the middle of the ball, same shape; not on 8-bit levels in general.
        epsilon: Radius, pixels being in [0, 1]; infinite for no ball.
    """
    middle = clean.double() * LEVELS
    lowest = (middle - epsilon * LEVELS - _SLACK).ceil()
    highest = (middle + epsilon * LEVELS + _SLACK).floor()
    nearest = (attacked.double() * LEVELS).round().clamp(lowest, highest)
    levels = torch.where(lowest <= highest, nearest, middle.round())
    return levels.clamp(0, LEVELS).to(torch.uint8)


def name_files(files: Sequence[Path], words: Sequence[str]) -> dict[tuple[Path, str], str]:
    """Return a file name for every image and attack; images of one stem are numbered."""
    names: dict[tuple[Path, str], str] = {}
    taken: set[str] = set()
    for file in files:
        for word in words:
            label = file.stem + "-" + re.sub(r"[^\w.]+", "-", word)
            name, number = f"{label}.png", 1
            while name.casefold() in taken:  # some file systems fold letter case
                number += 1
                name = f"{label}-{number}.png"
            taken.add(name.casefold())
            names[file, word] = name
    return names


def check_output(output: Path, files: Sequence[Path], names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse an output folder that cannot be one, holds what is to be attacked, or files that are in the way."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder")
    inside = [str(file) for file in files if file.resolve().is_relative_to(output.resolve())]
    if inside:
        raise UsageError(f"{inside[0]} lies in the output folder; name another with -o")
    existing = [name for name in names if (output / name).exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UsageError(
            f"{output / existing[0]}{more} exists already; replace it with --overwrite, or name another place with -o"
        )


def write_table(path: Path, rows: Sequence[AttackedImage]) -> None:
    """Write the table as CSV; a value that does not exist is an empty cell."""
    # File names need not be text; their bytes are kept.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: None if value != value else value for name, value in row.as_row().items()})
