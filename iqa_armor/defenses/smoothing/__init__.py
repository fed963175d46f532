"""Smoothers of scores by noise on images or features, with bounds within an L2 radius, by the words that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iqa_armor.registry import Entry, Registry

if TYPE_CHECKING:
    from iqa_armor.defenses.base import Smoother

_HOME = "iqa_armor.defenses.smoothing"
_INPUT, _FEATURE = f"{_HOME}.input_smoothing", f"{_HOME}.feature_smoothing:FeatureSmoothing"
# Purifiers take images in [0, 1]; so noisy images are cut to it in front of them.
_DENOISED = {"denoiser": "median", "clamp": True}
SMOOTHERS: Registry[Smoother] = Registry(
    "smoother",
    {
        "ms": Entry(f"{_INPUT}:MedianSmoothing", "Median of the scores of noisy images.", {}),
        "rs": Entry(f"{_INPUT}:MeanSmoothing", "Mean of the scores of noisy images, clipped to their range.", {}),
        "drs": Entry(f"{_INPUT}:MeanSmoothing", "rs with a denoiser in front of the model.", _DENOISED),
        "dms": Entry(f"{_INPUT}:MedianSmoothing", "ms with a denoiser in front of the model.", _DENOISED),
        "fs": Entry(_FEATURE, "Median of the scores of noisy features; bounds are local and first-order.", {}),
    },
    group="iqa_armor.smoothers",
    accepts="iqa_armor.defenses.base:accepted_smoother",
)
__getattr__ = SMOOTHERS.lazy_attribute
