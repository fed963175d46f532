"""What is reported of one model, with stable names: agreement, robustness, cost, and differences to a baseline."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from iqa_armor.results.figure_registry import declared

# JSON has no NaN: a figure that is not defined is null from the start, so that a round trip keeps it.
_FINITE = BeforeValidator(lambda value: None if isinstance(value, float) and not math.isfinite(value) else value)
Number = Annotated[float | None, _FINITE]


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
    values = (f for f in declared(*kinds) if not differences or "value" in f.compared)
    fields = {figure.name: one if figure.of in ("clean", "data") else by_budget for figure in values}
    areas = (f for f in declared(*kinds) if f.has_area and (not differences or "area" in f.compared))
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
