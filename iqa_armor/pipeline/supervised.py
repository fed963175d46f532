"""Train a model on opinion scores, without surgery."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import fx

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.data.base import Dataset
from iqa_armor.defenses import replace_activations
from iqa_armor.evaluation import scale_of
from iqa_armor.models.base import QualityModel
from iqa_armor.models.digest import state_digest
from iqa_armor.pipeline.fitting import (
    Options,
    Unit,
    calibration_batch,
    fit_to_opinion,
    load_material,
)
from iqa_armor.pipeline.provenance import provenance_of
from iqa_armor.recipe import Training
from iqa_armor.surgery import trace
from iqa_armor.training import Fit
from iqa_armor.training.checkpoint import fingerprint_of


@dataclass(frozen=True)
class Trained:
    """A trained model, answering in the unit of the opinion scores.

    Args:
        model: The result, in eval mode on the CPU.
        settings: How it was fitted.
        fit: What each epoch gave.
        provenance: Source, data and versions, as stored in the file.
    """

    model: QualityModel
    settings: Training
    fit: Fit
    provenance: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the model as one self-contained safetensors file, atomically."""
        save_artifact(self.model, path, recipe=self.settings.model_dump(), provenance=self.provenance)


def train(
    model: QualityModel,
    dataset: Dataset,
    settings: Training,
    *,
    options: Options | None = None,
    fresh: Collection[str] | None = None,
) -> Trained:
    """Return a traced copy of a model, fitted to the training split; the model itself is left untouched.

    Args:
        model: Architecture with initial or pretrained weights.
        dataset: Scored images; only its training split is used.
        settings: Epochs, step size, loss and the rest.
        options: How this machine does it.
        fresh: Names of the network's tensors that are not pretrained, which `activation_scope` "new" asks for; None
            says that none is pretrained.

    Raises:
        DataError: If images are missing or unreadable, before anything else starts.
        SurgeryError: If the model cannot be traced (its file could then not be opened without its source),
            or has no activation to replace.
    """
    options = options or Options()
    material = load_material(dataset.training(), model, options.progress)
    traced = trace(model.network, calibration_batch(material, model, 2)[:1])
    smooth = _smoothed(traced, settings, fresh)
    # It learns opinion scores, of which more is better, whatever its scores meant before.
    copied = QualityModel(traced, model.preprocessing, name=model.name, arch=model.arch)
    facts = {
        "training": settings.model_dump(),
        "data": dataset.fingerprint,
        "preprocessing": asdict(model.preprocessing),
        "weights": state_digest(model),
        "smooth_activations": smooth,
    }
    fitted, scores = fit_to_opinion(
        copied,
        material,
        settings,
        now=Unit(0.0, 1.0),
        then=Unit(float(material.mos.mean()), float(material.mos.std())),
        options=options,
        fingerprint=fingerprint_of(facts),
    )
    copied.scale = scale_of(copied, scores, material.names)
    history = {
        "epochs": [asdict(epoch) for epoch in fitted.epochs],
        "best_epoch": fitted.best,
        "smooth_activations": smooth,
    }
    provenance = provenance_of(model, dataset, seed=settings.seed, facts=history)
    return Trained(copied.eval(), settings, fitted, provenance)


def _smoothed(traced: fx.GraphModule, settings: Training, fresh: Collection[str] | None) -> list[str]:
    """Replace activations where the settings say so, in place, and return the names of their nodes."""
    if settings.activation == "keep":
        return []
    chosen = None if settings.activation_scope == "all" else fresh
    return replace_activations(traced, settings.activation, fresh=chosen)
