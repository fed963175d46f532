"""Figures of one model, with stable names: agreement, robustness, cost, and differences to a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


def epsilon_key(epsilon: float) -> str:
    """Return the JSON key of a budget in [0, 1]: its size in 1/255, such as "4"."""
    return f"{epsilon * 255:g}"


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# JSON has no NaN: a figure that is not defined is null from the start, so that a round trip keeps it.
Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
ByEpsilon = dict[str, Number]


class Value(BaseModel):
    """A frozen value that knows no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AttackFigures(Value):
    """One attack on one model; dictionaries go by budget in 1/255, gains are in score ranges or deviations.

    `max_linf` is the largest true change of a pixel value in 1/255, `psnr` the mean in decibels. Behind a purifier,
    `quality` is that of the purified attacked images ([AP], (SSIM + PSNR/80)/2), and `gain_score` the mean change of
    their score from that of the clean image without purifier, relative to it.
    """

    abs_gain: ByEpsilon = {}
    abs_gain_unsigned: ByEpsilon = {}
    abs_gain_std: ByEpsilon = {}
    r_score: ByEpsilon = {}
    srocc: ByEpsilon = {}
    plcc: ByEpsilon = {}
    quality: ByEpsilon = {}
    gain_score: ByEpsilon = {}
    max_linf: ByEpsilon = {}
    psnr: ByEpsilon = {}
    abs_gain_auc: Number = None
    abs_gain_unsigned_auc: Number = None
    abs_gain_std_auc: Number = None
    r_score_auc: Number = None

    @classmethod
    def blank(cls, keys: Sequence[str]) -> AttackFigures:
        """Return figures with every budget of `keys` (1/255 as text) and no value."""
        budgets = dict.fromkeys(keys)
        return cls.model_validate(
            {name: budgets for name, field in cls.model_fields.items() if field.annotation == ByEpsilon}
        )


class Figures(Value):
    """Agreement with opinion and robustness to each attack; null where images have no scores.

    `worst_case` takes, for each image and budget, the attack that moved the score farthest among those that were
    run at every budget; null where fewer than two were. `clean_quality` and `clean_gain_score` say what a purifier
    does to clean images and to their scores.
    """

    srocc: Number = None
    plcc: Number = None
    plcc_logistic: Number = None
    clean_quality: Number = None
    clean_gain_score: Number = None
    attacks: dict[str, AttackFigures] = {}
    worst_case: AttackFigures | None = None


class DatasetFigures(Figures):
    """Figures on one dataset, with the mean and deviation of the clean scores in model units."""

    images: int
    clean_mean: Number = None
    clean_std: Number = None


class Check(Value):
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


class Interval(Value):
    """A difference to the baseline with its confidence limits."""

    value: Number = None
    low: Number = None
    high: Number = None


class AttackDifferences(Value):
    """Model minus baseline under one attack, by budget or over all."""

    abs_gain: dict[str, Interval] = {}
    srocc: dict[str, Interval] = {}
    abs_gain_auc: Interval = Interval()
    abs_gain_std_auc: Interval = Interval()
    r_score_auc: Interval = Interval()


class Differences(Value):
    """Model minus baseline, from the same images."""

    srocc: Interval = Interval()
    plcc: Interval = Interval()
    attacks: dict[str, AttackDifferences] = {}
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
    bare model.
    `flops` counts convolutions and matrix products of one image (two per multiply-add, no FFT).
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
    checks: tuple[Check, ...] = ()
    ratio_to_baseline: Ratios | None = None
    difference_to_baseline: Differences | None = None
