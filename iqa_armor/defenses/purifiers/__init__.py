"""Purifiers: maps of images that shall remove adversarial perturbations, by the words that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iqa_armor.registry import Entry, Registry

if TYPE_CHECKING:
    from iqa_armor.defenses.base import Purifier, PurifierFile

_HOME = "iqa_armor.defenses.purifiers"
# Those read from a file are settings here, and a purifier once loaded: see `read_purifier`.
PURIFIERS: Registry[Purifier | PurifierFile] = Registry(
    "purifier",
    {
        "flip": Entry(f"{_HOME}.filters:Flip", "Mirror from left to right.", {}),
        "rotate": Entry(f"{_HOME}.filters:Rotate", "Turn about the center.", {}),
        "crop": Entry(f"{_HOME}.filters:Crop", "Cut out a random part and enlarge it.", {}),
        "resize": Entry(f"{_HOME}.filters:Resize", "Resize and back.", {}),
        "blur": Entry(f"{_HOME}.filters:Blur", "Gaussian blur.", {}),
        "median": Entry(f"{_HOME}.filters:Median", "Median of the pixels around.", {}),
        "unsharp": Entry(f"{_HOME}.filters:Unsharp", "Sharpen by what a Gaussian blur takes away.", {}),
        "jpeg": Entry(f"{_HOME}.filters:JPEG", "JPEG compression.", {}),
        "diffjpeg": Entry(f"{_HOME}.filters:DiffJPEG", "JPEG with rounding that has a gradient.", {}),
        "quantize": Entry(f"{_HOME}.filters:Quantize", "Few levels per color channel.", {}),
        "noise": Entry(f"{_HOME}.filters:Noise", "Gaussian noise.", {}),
        "fcn": Entry(f"{_HOME}.fcn:FCNFile", "A filter trained by train-purifier, from its file.", {}),
        "diffusion": Entry(f"{_HOME}.diffusion:DiffusionFolder", "Noise, and a diffusion model against it.", {}),
        "file": Entry(f"{_HOME}.network_file:NetworkFile", "Any network from a .pt2 or .onnx file.", {}),
    },
    group="iqa_armor.purifiers",
    accepts="iqa_armor.defenses.base:accepted_purifier",
)
__getattr__ = PURIFIERS.lazy_attribute
