"""What a model's scores mean: their ranks among those of its training images, and the opinions that go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from iqa_armor.errors import ModelLoadError, SettingError

if TYPE_CHECKING:
    from torch import Tensor

    from iqa_armor.models.base import QualityModel

Kind = Literal["mos", "percentile", "0-100"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RANKS = 101
WAY_OUT = "name the images that it was trained on with --scale-data SPEC"


@dataclass(frozen=True)
class TrainingScores:
    """The scores of training images at 101 evenly spaced ranks, ascending, and the mean opinion at each, or none."""

    scores: tuple[float, ...]
    opinions: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for values in filter(None, (self.scores, self.opinions)):
            if len(values) != RANKS or not np.isfinite(values).all():
                raise SettingError(f"training scores are {RANKS} finite numbers, got {len(values)}")
        if not self.scores or (np.diff(self.scores) < 0).any():
            raise SettingError("training scores must ascend")

    @classmethod
    def of(cls, scores: Tensor, mos: Tensor | None, *, rising: bool) -> TrainingScores:
        """Return what scores (N,) of training images and their opinions (N,) give; `rising` says whether high is good.

        Source: opinions are the isotonic regression of MOS on scores, least squares under monotonicity alone: Barlow et
        al., "Statistical Inference under Order Restrictions", 1972, Section 1.2.
        """
        order, places, ranks = scores.double().sort(), np.arange(len(scores)), np.linspace(0, len(scores) - 1, RANKS)
        found = tuple(np.interp(ranks, places, order.values.numpy()).tolist())
        if mos is None or not bool(mos.isfinite().all()):
            return cls(found)
        from scipy.optimize import isotonic_regression

        fitted = isotonic_regression(mos.double()[order.indices].numpy(), increasing=rising).x
        return cls(found, tuple(np.interp(ranks, places, fitted).tolist()))


def rescaling(model: QualityModel, kind: Kind) -> Callable[[float], float]:
    """Return what turns a model's score into another number, high for good images; a ModelLoadError if it cannot.

    `mos`: the opinion that training images of this score have. `percentile`: the share of training images that are no
    better, in %. `0-100`: 0 for the worst training image, 100 for the best one. None leaves its range.
    """
    known, scale, rising = model.training_scores, model.scale, model.higher_is_better
    low, high = (0, 100) if rising else (100, 0)  # of the lowest and the highest score
    if kind == "0-100" and scale is not None:
        return _interpolation((scale.low, scale.high), (low, high))
    if kind == "percentile" and known is not None:
        return _interpolation(known.scores, np.linspace(low, high, RANKS).tolist())
    if kind == "mos" and known is not None and known.opinions:
        return _interpolation(known.scores, known.opinions)
    lacks = "range of scores" if kind == "0-100" else "scores of training images" if known is None else "opinions"
    raise ModelLoadError(f"{model.name} records no {lacks}, which --scale {kind} takes; {WAY_OUT}")


def _interpolation(scores: Sequence[float], values: Sequence[float]) -> Callable[[float], float]:
    return lambda score: float(np.interp(score, scores, values))
