"""Fitting quality models to opinion scores."""

from iqa_armor.training.fit import Epoch, Fit, FitData, fit
from iqa_armor.training.predict import predict
from iqa_armor.training.setup import is_main_process

__all__ = ["Epoch", "Fit", "FitData", "fit", "is_main_process", "predict"]
