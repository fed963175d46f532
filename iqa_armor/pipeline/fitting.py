"""What hardening and training share: images, fitting in standardised scores, the score range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx

from iqa_armor.data.base import ImageSet, held_out
from iqa_armor.data.transforms import PreparedImages, load_prepared
from iqa_armor.errors import DataError
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent
from iqa_armor.recipe import Training
from iqa_armor.surgery import rescale_output
from iqa_armor.training import Epoch, Fit, FitData, fit, predict

# At most 32 M pixels at once: a hundred images of 498 × 664, forty of 768 × 1024.
CALIBRATION_PIXELS = 2**25


@dataclass(frozen=True)
class Options:
    """How this machine carries a job out; none of it changes what the result is.

    Args:
        device: "auto", "cpu" or "cuda".
        checkpoint: File kept after each epoch, or None.
        resume: Whether to continue from it.
        progress: Receiver of progress.
    """

    device: str = "auto"
    checkpoint: Path | None = None
    resume: bool = False
    progress: Progress = silent


@dataclass(frozen=True)
class Material:
    """Training images, prepared for one model.

    Args:
        fitting: Nine tenths, which the network is fitted to.
        held_out: One tenth, which chooses the epoch.
    """

    fitting: PreparedImages
    held_out: PreparedImages

    @property
    def mos(self) -> Tensor:
        """Opinion scores (N,) of the images fitted to."""
        return self.fitting.mos

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all training images, those fitted to first."""
        return (*self.fitting.images.names, *self.held_out.images.names)


@dataclass(frozen=True)
class Unit:
    """Mean and standard deviation that scores shall have; a negative spread turns their direction round."""

    center: float
    spread: float


def load_material(images: ImageSet, model: QualityModel, progress: Progress) -> Material:
    """Read and check every training image.

    Raises:
        DataError: If some cannot be read, or there are too few to fit to.
    """
    if len(images) < 4:
        raise DataError(f"fitting a model takes at least 4 scored training images; there are too few: {len(images)}")
    parts = []
    for task, part in zip(("training images", "held-out images"), held_out(images), strict=True):
        parts.append(
            load_prepared(
                part,
                model.prepare,
                on_progress=lambda done, total, task=task: progress(f"reading {task}", done, total),  # type: ignore[misc]
            )
        )
    return Material(*parts)


def calibration_batch(material: Material, model: QualityModel, count: int) -> Tensor:
    """Return `count` normalised training images (N, 3, H, W), evenly spread; fewer where they are large."""
    total = len(material.fitting)
    count = min(count, total)
    images = [material.fitting[i * total // count][0] for i in range(count)]
    alike = [image for image in images if image.shape == images[0].shape]
    most = max(2, CALIBRATION_PIXELS // images[0][0].numel())
    return model.normalize(torch.stack(alike[:most]).to(model.mean.device))


def fit_to_opinion(
    model: QualityModel,
    material: Material,
    settings: Training,
    *,
    now: Unit,
    then: Unit,
    options: Options,
    fingerprint: str,
) -> tuple[Fit, Tensor]:
    """Fit a traced model in place on standardised scores; its scores then have the mean and spread of `then`.

    Standardising makes step sizes and the MSE loss mean the same for a model that answers in 0–1 and for one that
    answers in 0–100 (ours).

    Args:
        model: Model whose network is a graph.
        material: Images.
        settings: Epochs, step size, loss and the rest.
        now: Mean and spread of the scores as they are.
        then: Those the fitted model's scores shall have on the images fitted to.
        options: How this machine does it.
        fingerprint: Of everything the fit depends on, for its checkpoint.

    Returns:
        What each epoch gave, and the fitted model's scores (N,) of all training images.
    """
    network = model.network
    if not isinstance(network, fx.GraphModule):
        raise ValueError("only a traced network can be rescaled")
    rescale_output(network, gain=1 / now.spread, offset=-now.center / now.spread)
    sign = math.copysign(1.0, then.spread)
    mos = material.mos
    fitted = fit(
        model,
        FitData(material.fitting, material.held_out, center=float(mos.mean()), spread=sign * float(mos.std())),
        settings,
        device=options.device,
        checkpoint=options.checkpoint,
        fingerprint=fingerprint,
        resume=options.resume,
        on_step=lambda done, total, epoch: options.progress("fine-tuning", done, total, describe(epoch)),
    )
    scores = score_all(model, material, options.progress)
    model.to("cpu")
    fitted_to = scores[: len(material.fitting)]
    gain = abs(then.spread) / max(float(fitted_to.std()), 1e-12)
    offset = then.center - gain * float(fitted_to.mean())
    rescale_output(network, gain=gain, offset=offset)
    return fitted, gain * scores + offset


def score_all(model: QualityModel, material: Material, progress: Progress) -> Tensor:
    """Return the scores (N,) of all training images, those fitted to first."""
    parts = (material.fitting, material.held_out)
    return torch.cat([predict_all(model, part, "measuring the score range", progress) for part in parts])


def predict_all(model: QualityModel, images: PreparedImages, task: str, progress: Progress) -> Tensor:
    """Return the scores (N,) of prepared images, telling progress."""
    return predict(model, images, on_progress=lambda done, total: progress(task, done, total))


def describe(epoch: Epoch | None) -> str:
    """Return a line on an epoch that just ended, or ""."""
    if epoch is None:
        return ""
    return f"epoch {epoch.number}: loss {epoch.loss:.4f}, held-out SROCC {epoch.srocc:.3f}"
