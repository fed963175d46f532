"""Every figure that is reported of a model, declared once.

The JSON, its areas, ratios, differences and requirements follow from these entries; how a figure is computed stands
under its name in `iqa_armor.evaluation.reductions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        name: Its name in the JSON.
        of: "clean" images; "attacked" ones, with a value per budget; or clean ones of one dataset ("data"), which are
            not combined over datasets.
        label: What tables call it.
        says: What it is, in a sentence; gains are in score ranges of the model unless it says otherwise.
        better: +1 where more is better, -1 where less is, 0 where neither. A gain is better the less it follows the
            direction of the attack.
        is_gain: Whether it is signed along the attack.
        has_area: Whether its mean over the budgets is given too, as NAME_auc.
        compared: What is given as a difference to the baseline, with limits.
        combined: What stands for all datasets.
        notation: "figure" as papers print it, with three decimals, or "number" of any size.
    """

    name: str
    of: Literal["clean", "attacked", "data"]
    label: str
    says: str
    better: Literal[-1, 0, 1] = 0
    is_gain: bool = False
    has_area: bool = False
    compared: frozenset[Literal["value", "area"]] = frozenset()
    combined: Literal["weighted mean", "largest"] = "weighted mean"
    notation: Literal["figure", "number"] = "figure"

    @property
    def area(self) -> str:
        """Name of the mean over the budgets."""
        return f"{self.name}_auc"


VALUE, AREA = frozenset({"value"}), frozenset({"area"})
FIGURES: list[Figure] = [
    Figure("srocc", "clean", "SROCC", "rank correlation with opinion", better=1, compared=VALUE),
    Figure("plcc", "clean", "PLCC", "linear correlation with opinion", better=1, compared=VALUE),
    Figure("plcc_logistic", "clean", "PLCC, logistic fit", "PLCC after a fit of four parameters", better=1),
    Figure("clean_quality", "clean", "Quality, clean", "quality of purified clean images ([AP])", better=1),
    Figure("clean_gain_score", "clean", "Gain score, clean", "change of clean scores by a purifier", better=-1),
    Figure("clean_mean", "data", "Mean score", "mean of the clean scores, in model units", notation="number"),
    Figure("clean_std", "data", "Deviation of scores", "their standard deviation", notation="number"),
    Figure(
        "abs_gain",
        "attacked",
        "AbsGain",
        "mean change of the score",
        better=-1,
        is_gain=True,
        has_area=True,
        compared=VALUE | AREA,
    ),
    Figure(
        "abs_gain_unsigned", "attacked", "unsigned", "mean size of the change of the score", better=-1, has_area=True
    ),
    Figure(
        "abs_gain_std",
        "attacked",
        "in std",
        "mean change in deviations of the clean scores",
        better=-1,
        is_gain=True,
        has_area=True,
        compared=AREA,
    ),
    Figure(
        "r_score", "attacked", "R-Score", "log of possible over achieved change", better=1, has_area=True, compared=AREA
    ),
    Figure("srocc", "attacked", "SROCC", "rank correlation with opinion", better=1, compared=VALUE),
    Figure("plcc", "attacked", "PLCC", "linear correlation with opinion", better=1),
    Figure(
        "quality", "attacked", "Quality", "quality of purified attacked images: (SSIM + PSNR/80)/2 ([AP])", better=1
    ),
    Figure(
        "gain_score",
        "attacked",
        "Gain score",
        "mean change from the score of the clean image without purifier, relative to it ([AP])",
        better=-1,
    ),
    Figure(
        "max_linf",
        "attacked",
        "max L∞ ·255",
        "largest change of a pixel value, in 1/255",
        combined="largest",
        notation="number",
    ),
    Figure("psnr", "attacked", "PSNR, dB", "mean decibels between clean and attacked", notation="number"),
]


def declared(*kinds: str) -> list[Figure]:
    """Return the figures of clean or attacked images, or of the data, in the order of the JSON."""
    return [figure for figure in FIGURES if figure.of in kinds]


def epsilon_key(epsilon: float) -> str:
    """Return the JSON key of a budget in [0, 1]: its size in 1/255, such as "4"."""
    return f"{epsilon * 255:g}"
