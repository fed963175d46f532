"""Evaluation: models scored clean and attacked on datasets, beside a baseline."""

from iqa_armor.evaluation.exhibits import build_exhibit
from iqa_armor.evaluation.protocol import Evaluation, evaluate
from iqa_armor.evaluation.run import Progress, on_device
from iqa_armor.evaluation.scale import measure_scale, scale_of
from iqa_armor.evaluation.scoring import ImageScores
from iqa_armor.evaluation.settings import PAPER_EPSILONS, EvaluationSettings

__all__ = [
    "PAPER_EPSILONS",
    "Evaluation",
    "EvaluationSettings",
    "ImageScores",
    "Progress",
    "build_exhibit",
    "evaluate",
    "measure_scale",
    "on_device",
    "scale_of",
]
