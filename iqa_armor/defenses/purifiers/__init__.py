"""Purifiers: maps of images that shall remove adversarial perturbations, by the words that name them."""

from __future__ import annotations

from iqa_armor.defenses.base import Purifier
from iqa_armor.defenses.purifiers.compression import JPEG, DiffJPEG, Quantize
from iqa_armor.defenses.purifiers.filters import Blur, Median, Noise, Unsharp
from iqa_armor.defenses.purifiers.geometry import Crop, Flip, Resize, Rotate
from iqa_armor.words import read_word

__all__ = [
    "JPEG",
    "PURIFIERS",
    "Blur",
    "Crop",
    "DiffJPEG",
    "Flip",
    "Median",
    "Noise",
    "Quantize",
    "Resize",
    "Rotate",
    "Unsharp",
    "parse_purifier",
]

PURIFIERS: dict[str, Purifier] = {
    "flip": Flip(),
    "rotate": Rotate(),
    "crop": Crop(),
    "resize": Resize(),
    "blur": Blur(),
    "median": Median(),
    "unsharp": Unsharp(),
    "jpeg": JPEG(),
    "diffjpeg": DiffJPEG(),
    "quantize": Quantize(),
    "noise": Noise(),
}


def parse_purifier(text: str) -> Purifier:
    """Return the purifier named by a word of the command line.

    Args:
        text: A name in `PURIFIERS`, or `NAME:key=value,…` with the purifier's own settings.

    Raises:
        UsageError: If the name or a setting is unknown, or a value is not allowed.
    """
    return read_word(text, PURIFIERS, kind="purifier")
