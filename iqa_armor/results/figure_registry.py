"""Every figure that is reported of a model, declared once: its JSON, area, ratio, difference and requirements follow.

How it is computed stands under its name in `iqa_armor.evaluation.reductions`.
"""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One figure: its name in the JSON, what tables call it and what it says.

    It is one of clean images; of attacked ones, with a value per budget; of those that the attack on the ranking gave
    ("ranked"), with a value per budget and their mean; or of clean ones of one dataset ("data"), never combined.
    """

    name: str
    of: Literal["clean", "attacked", "ranked", "data"]
    label: str
    says: str
    better: Literal[-1, 0, 1] = 0  # whether more is better (+1) or less
    is_gain: bool = False  # whether it is signed along the attack, so that one downwards makes it negative
    has_area: bool = False  # whether its mean over the budgets is given too
    compared: tuple[str, ...] = ()  # what has a difference to the baseline, with limits: its "value", its "area"
    combined: Literal["weighted mean", "largest"] = "weighted mean"  # over datasets
    is_plain: bool = False  # whether it is shown as a number of any size, not with three decimals

    @property
    def area(self) -> str:
        """Name of the mean over the budgets: over their range, or of its values alone where they are no even grid."""
        return f"{self.name}_mean" if self.of == "ranked" else f"{self.name}_auc"


_RANKS, _LINEAR = "rank correlation with opinion", "linear correlation with opinion"
_WORST = "rank correlation with opinion where low-rated images are pushed up and high-rated ones down"
_KEPT = "rank correlation of those scores with the clean ones"
_IN_STD = "mean change of the score in deviations of the clean ones"
_GAIN: dict[str, Any] = {"better": -1, "is_gain": True, "has_area": True}
FIGURES: list[Figure] = [
    Figure("srocc", "clean", "SROCC", _RANKS, 1, compared=("value",)),
    Figure("plcc", "clean", "PLCC", _LINEAR, 1, compared=("value",)),
    Figure("plcc_logistic", "clean", "PLCC, logistic fit", "PLCC after a fit of four parameters", 1),
    Figure("clean_quality", "clean", "Quality, clean", "quality of purified clean images ([AP])", 1),
    Figure("clean_gain_score", "clean", "Gain score, clean", "change of clean scores by a purifier ([AP])", -1),
    Figure("clean_mean", "data", "Mean score", "mean of the clean scores in model units", is_plain=True),
    Figure("clean_std", "data", "Deviation", "standard deviation of the clean scores", is_plain=True),
    Figure("abs_gain", "attacked", "AbsGain", "mean change of the score", compared=("value", "area"), **_GAIN),
    Figure("abs_gain_unsigned", "attacked", "unsigned", "mean size of the change", -1, has_area=True),
    Figure("abs_gain_std", "attacked", "Gain in std", _IN_STD, compared=("area",), **_GAIN),
    Figure("r_score", "attacked", "R-Score", "log of possible ÷ found change", 1, has_area=True, compared=("area",)),
    Figure("srocc", "attacked", "SROCC", _RANKS, 1, compared=("value",)),
    Figure("plcc", "attacked", "PLCC", _LINEAR, 1),
    Figure("worst_case_srocc", "ranked", "Worst-case SROCC", _WORST, 1, has_area=True, compared=("value", "area")),
    Figure("rank_kept", "ranked", "Ranks kept", _KEPT, 1, has_area=True),
    Figure("quality", "attacked", "Quality", "(SSIM + PSNR/80)/2 of purified attacked images ([AP])", 1),
    Figure("gain_score", "attacked", "Gain score", "relative change that an attack keeps behind a purifier ([AP])", -1),
    Figure("max_linf", "attacked", "max L∞ ·255", "largest change of a pixel", combined="largest", is_plain=True),
    Figure("psnr", "attacked", "PSNR, dB", "mean PSNR between clean and attacked", is_plain=True),
]


def declared(*kinds: str) -> list[Figure]:
    """Return the figures of clean or attacked images, or of the data, in the order of the JSON."""
    return [figure for figure in FIGURES if figure.of in kinds]
