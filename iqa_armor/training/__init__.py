"""Fitting quality models to opinion scores, and purifiers to attacks."""

from iqa_armor.training.filter_settings import FilterSettings
from iqa_armor.training.fit import Epoch, Fit, FitData, fit
from iqa_armor.training.predict import predict
from iqa_armor.training.purifier import FilterEpoch, FittedFilter, fit_filter

__all__ = [
    "Epoch",
    "FilterEpoch",
    "FilterSettings",
    "Fit",
    "FitData",
    "FittedFilter",
    "fit",
    "fit_filter",
    "predict",
]
