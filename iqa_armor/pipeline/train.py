"""Train a model on opinion scores, without surgery."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.activations import replace_activations
from iqa_armor.evaluation.scale import record_scale
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.fitting import RunOptions, calibration_batch, fit_to_opinion, moments_of
from iqa_armor.pipeline.probe import probe_head
from iqa_armor.pipeline.provenance import provenance_of, without_times
from iqa_armor.recipe import Training
from iqa_armor.training.history import FitHistory, ScoreMoments
from iqa_armor.training.images import load_training_images


@dataclass(frozen=True, repr=False)
class Trained:
    """A trained model, in eval mode on the CPU, answering in the unit of the opinion scores."""

    model: QualityModel
    settings: Training
    fit: FitHistory
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        return f"Trained {self.model!r}" + "".join(f"\n  {epoch}" for epoch in self.fit.epochs[1:])

    def save(self, path: Path | str) -> None:
        """Write the model as one self-contained safetensors file, whole or not at all."""
        save_artifact(self.model, path, recipe=self.settings.model_dump(), provenance=without_times(self.provenance))


def train(
    model: QualityModel,
    dataset: Dataset,
    settings: Training,
    *,
    options: RunOptions | None = None,
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
    options = options or RunOptions()
    images = load_training_images(dataset.training(), model, options.progress)
    traced = trace(model.network, calibration_batch(images, model, 2)[:1])
    smooth: list[str] = []
    if settings.activation != "keep":
        chosen = None if settings.activation_scope == "all" else fresh
        smooth = replace_activations(traced, settings.activation, fresh=chosen)
    # It learns opinion scores, of which more is better, whatever its scores meant before.
    copied = QualityModel(traced, model.preprocessing, name=model.name, arch=model.arch)
    facts = {"training": settings.model_dump(), "smooth_activations": smooth}
    checkpoint = options.checkpoint_of(model, dataset, images, **facts)
    labels = moments_of(images.mos)
    copied.to(options.device)
    probe = probe_head(copied, images, labels, fresh=fresh, progress=options.progress)
    history, scores = fit_to_opinion(
        copied,
        images,
        settings,
        now=ScoreMoments(),
        then=labels,
        options=options,
        checkpoint=checkpoint,
        is_pretrained=fresh is not None,
    )
    record_scale(copied, scores, images.names, images.all_mos)
    record = provenance_of(
        model, dataset, seed=settings.seed, probe_srocc=probe, **history.facts(), smooth_activations=smooth
    )
    return Trained(copied.eval(), settings, history, record)
