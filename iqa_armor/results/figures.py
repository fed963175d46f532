"""What is reported of one model, with stable names: figures, declared once, and the values that follow from them.

A figure's JSON, area, ratio, difference and requirements follow from its declaration; how it is computed stands under
its name in `iqa_armor.evaluation.reductions`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model


@dataclass(frozen=True)
class Figure:
    """One figure: its name in the JSON, what tables call it and what it says.

    It is one of clean images; of attacked ones, with a value per budget; of those that the attack on the ranking gave
    ("ranked"), with a value per budget and their mean; or of the clean ones of one dataset ("data"), which is not
    combined over datasets.
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
    Figure(
        "worst_case_srocc",
        "ranked",
        "Worst-case SROCC",
        "rank correlation with opinion where low-rated images are pushed up and high-rated ones down",
        1,
        has_area=True,
        compared=("value", "area"),
    ),
    Figure(
        "rank_kept", "ranked", "Ranks kept", "rank correlation of those scores with the clean ones", 1, has_area=True
    ),
    Figure("quality", "attacked", "Quality", "(SSIM + PSNR/80)/2 of purified attacked images ([AP])", 1),
    Figure("gain_score", "attacked", "Gain score", "relative change that an attack keeps behind a purifier ([AP])", -1),
    Figure("max_linf", "attacked", "max L∞ ·255", "largest change of a pixel", combined="largest", is_plain=True),
    Figure("psnr", "attacked", "PSNR, dB", "mean PSNR between clean and attacked", is_plain=True),
]


def declared(*kinds: str) -> list[Figure]:
    """Return the figures of clean or attacked images, or of the data, in the order of the JSON."""
    return [figure for figure in FIGURES if figure.of in kinds]


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# JSON has no NaN: a figure that is not defined is null from the start, so that a round trip keeps it.
Number = Annotated[float | None, BeforeValidator(_finite_or_none)]


class Value(BaseModel):
    """A frozen value that knows no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Value):
    """A difference to the baseline with its confidence limits."""

    value: Number = None
    low: Number = None
    high: Number = None


def _declared(*kinds: str, differences: bool = False) -> Any:
    """Return a value with the declared figures of some kinds, or with the differences of those that are compared."""
    one: Any = (Interval, Interval()) if differences else (Number, None)
    by_budget: Any = (dict[str, Interval], {}) if differences else (dict[str, Number], {})
    figures = declared(*kinds)
    fields = {
        figure.name: one if figure.of in ("clean", "data") else by_budget
        for figure in figures
        if not differences or "value" in figure.compared
    }
    areas = (f for f in figures if f.has_area and (not differences or "area" in f.compared))
    return create_model("Declared", __base__=Value, **fields, **{figure.area: one for figure in areas})


class AttackFigures(_declared("attacked"), Value):  # type: ignore[misc]
    """One attack on one model: the figures of attacked images by budget, and the areas of those that have one."""


class Figures(_declared("clean", "ranked"), Value):  # type: ignore[misc]
    """Agreement with opinion and robustness to each attack; null where images have no scores.

    `worst_case` takes, for each image and budget, the attack that moved the score farthest among those that were
    run at every budget; null where fewer than two were.
    """

    attacks: dict[str, AttackFigures] = Field({})
    worst_case: AttackFigures | None = None


class DatasetFigures(_declared("data"), Figures):  # type: ignore[misc]
    """Figures on one dataset, with the mean and deviation of the clean scores in model units."""

    images: int


class StrengthCheck(Value):
    """One test of whether the attacks on a model were strong: what was found and the figures it rests on."""

    name: str
    status: Literal["passed", "failed", "not applicable"]
    says: str
    figures: dict[str, Number] = {}


class Timing(Value):
    """Median seconds of a clean forward pass per image."""

    seconds_per_image: Number = None


class Scale(Value):
    """Range of the model's clean predictions on training images, and where it comes from."""

    low: float
    high: float
    higher_is_better: bool = True
    source: str = "stored with the model"

    @property
    def width(self) -> float:
        """Length of the range."""
        return self.high - self.low


class AttackDifferences(_declared("attacked", differences=True), Value):  # type: ignore[misc]
    """Model minus baseline under one attack, by budget or over all."""


class Differences(_declared("clean", "ranked", differences=True), Value):  # type: ignore[misc]
    """Model minus baseline, from the same images."""

    attacks: dict[str, AttackDifferences] = Field({})
    worst_case: AttackDifferences | None = None


class Ratios(Figures):
    """Model ÷ baseline for every figure of an entry; null where the baseline is not positive."""

    parameters: Number = None
    flops: Number = None
    timing: Timing = Timing()


class _Named(Value):
    name: str
    arch: str = ""


class ModelEntry(Figures, _Named):
    """One model: figures combined over the datasets, the same per dataset, and beside the baseline.

    `defense` names what stands around the model called `defends`, and `threat` whether attacks knew it or fooled the
    bare model. `flops` counts convolutions and matrix products of one image (two per multiply-add, no FFT).
    """

    defense: str = ""
    defends: str = ""
    threat: Literal["adaptive", "bare"] | None = None
    srocc_drop: Number = None
    parameters: int
    flops: int | None = None
    timing: Timing = Timing()
    scale: Scale
    datasets: dict[str, DatasetFigures] = {}
    checks: tuple[StrengthCheck, ...] = ()
    ratio_to_baseline: Ratios | None = None
    difference_to_baseline: Differences | None = None
