"""Smoothers by the words of the command line."""

from __future__ import annotations

from collections.abc import Mapping

from iqa_armor.defenses.base import Smoother
from iqa_armor.defenses.features import FeatureSmoothing
from iqa_armor.defenses.smoothing.inputs import MeanSmoothing, MedianSmoothing
from iqa_armor.words import read_word

# Purifiers take images in [0, 1]; so noisy images are cut to it in front of them.
SMOOTHERS: Mapping[str, Smoother] = {
    "ms": MedianSmoothing(),
    "rs": MeanSmoothing(),
    "drs": MeanSmoothing(denoiser="median", clamp=True),
    "dms": MedianSmoothing(denoiser="median", clamp=True),
    "fs": FeatureSmoothing(),
}


def parse_smoother(text: str) -> Smoother:
    """Return the smoother that `NAME` or `NAME:key=value,…` means, e.g. `ms:samples=200,sigma=0.25`.

    sigma and radius are those of images in [0, 1], never in 1/255.

    Raises:
        UsageError: If the name or a setting is unknown, or a value is not allowed.
    """
    return read_word(text, SMOOTHERS, kind="smoother")
