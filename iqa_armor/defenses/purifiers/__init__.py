"""Purifiers: maps of images that shall remove adversarial perturbations, by the words that name them."""

from __future__ import annotations

import re

from iqa_armor.defenses.base import Purifier
from iqa_armor.defenses.purifiers.compression import JPEG, DiffJPEG, Quantize
from iqa_armor.defenses.purifiers.diffusion import DiffusionFolder
from iqa_armor.defenses.purifiers.fcn import FCN, FCNFile, load_fcn, new_fcn, save_fcn
from iqa_armor.defenses.purifiers.filters import Blur, Median, Noise, Unsharp
from iqa_armor.defenses.purifiers.geometry import Crop, Flip, Resize, Rotate
from iqa_armor.defenses.purifiers.network_file import NetworkFile
from iqa_armor.defenses.purifiers.stored import Stored
from iqa_armor.errors import UsageError
from iqa_armor.words import read_word

__all__ = [
    "FCN",
    "JPEG",
    "PURIFIERS",
    "Blur",
    "Crop",
    "DiffJPEG",
    "DiffusionFolder",
    "FCNFile",
    "Flip",
    "Median",
    "NetworkFile",
    "Noise",
    "Quantize",
    "Resize",
    "Rotate",
    "Stored",
    "Unsharp",
    "load_fcn",
    "new_fcn",
    "parse_chain",
    "parse_purifier",
    "save_fcn",
]

# Those read from a file are settings here, and a purifier once loaded.
PURIFIERS: dict[str, Purifier | Stored] = {
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
    "fcn": FCNFile(),
    "diffusion": DiffusionFolder(),
    "file": NetworkFile(),
}


def parse_chain(text: str) -> dict[str, Purifier]:
    """Return purifiers that are applied one after the other, by their words.

    Args:
        text: Words as `parse_purifier` reads them, joined by "+": "jpeg:quality=60+flip".

    Raises:
        UsageError: As `parse_purifier`, or if a word stands there twice.
    """
    words = re.split(rf"\+(?=(?:{'|'.join(PURIFIERS)})(?:[:+]|$))", text)
    if len(set(words)) < len(words):
        raise UsageError(f"the chain {text!r} names a purifier twice with the same settings; once is enough")
    return {word: parse_purifier(word) for word in words}


def parse_purifier(text: str) -> Purifier:
    """Return the purifier named by a word of the command line, loaded where it is read from a file.

    Args:
        text: A name in `PURIFIERS`, or `NAME:key=value,…` with the purifier's own settings.

    Raises:
        UsageError: If the name or a setting is unknown, a value is not allowed, or a path is not given.
        ModelLoadError: If a file is missing, or not what it should be.
        ArmorError: If an optional extra is missing.
    """
    purifier = read_word(text, PURIFIERS, kind="purifier")
    if not isinstance(purifier, Stored):
        return purifier
    if not purifier.path:
        raise UsageError(f"purifier {text!r} needs a path: {text.partition(':')[0]}:path=…")
    return purifier.load()
