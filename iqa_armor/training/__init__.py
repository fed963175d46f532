"""Fitting quality models to opinion scores."""

from iqa_armor.training.fit import Epoch, Fit, FitData, fit
from iqa_armor.training.predict import predict

__all__ = ["Epoch", "Fit", "FitData", "fit", "predict"]
