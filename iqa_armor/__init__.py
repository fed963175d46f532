"""Harden pretrained image-quality models against adversarial perturbations."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iqa_armor.artifact import storage
    from iqa_armor.data.specs import open_dataset as open_dataset
    from iqa_armor.evaluation.evaluation import evaluate as evaluate
    from iqa_armor.evaluation.settings import EvaluationSettings as EvaluationSettings
    from iqa_armor.export.write import export_model as export_model
    from iqa_armor.models.base import Preprocessing as Preprocessing
    from iqa_armor.models.base import QualityModel as QualityModel
    from iqa_armor.models.base import ScoreScale as ScoreScale
    from iqa_armor.pipeline.harden import harden as harden
    from iqa_armor.pipeline.load import load_model as load_model
    from iqa_armor.pipeline.train import train as train
    from iqa_armor.recipe import Recipe as Recipe
    from iqa_armor.recipe import Training as Training

    save_model = storage.save_artifact

__version__ = "0.1.0"
# Where each public name lives; looked up on first use, since `iqa-armor --help` must not import torch.
_HOMES = {
    "EvaluationSettings": "iqa_armor.evaluation.settings:EvaluationSettings",
    "Preprocessing": "iqa_armor.models.base:Preprocessing",
    "QualityModel": "iqa_armor.models.base:QualityModel",
    "Recipe": "iqa_armor.recipe:Recipe",
    "ScoreScale": "iqa_armor.models.base:ScoreScale",
    "Training": "iqa_armor.recipe:Training",
    "evaluate": "iqa_armor.evaluation.evaluation:evaluate",
    "export_model": "iqa_armor.export.write:export_model",
    "harden": "iqa_armor.pipeline.harden:harden",
    "load_model": "iqa_armor.pipeline.load:load_model",
    "open_dataset": "iqa_armor.data.specs:open_dataset",
    "save_model": "iqa_armor.artifact.storage:save_artifact",
    "train": "iqa_armor.pipeline.train:train",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'iqa_armor' has no attribute {name!r}")
    return resolve_name(_HOMES[name])
