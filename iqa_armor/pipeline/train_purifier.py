"""Train a purifier on attacks of a model, and say what it undoes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iqa_armor.attacks.base import Attack, Direction
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.purifiers.fcn import new_fcn, save_fcn
from iqa_armor.evaluation.scale import scale_of
from iqa_armor.metrics.fidelity import psnr, quality_score
from iqa_armor.metrics.robustness import gain_score
from iqa_armor.models.base import QualityModel, ScoreScale
from iqa_armor.pipeline.attack import build_attacks
from iqa_armor.pipeline.card import provenance_of, without_times
from iqa_armor.pipeline.fitting import RunOptions, score_all
from iqa_armor.pipeline.forecast import Forecast, forecast, steps_of
from iqa_armor.training.filter_settings import FilterSettings, PurifierSettings
from iqa_armor.training.images import load_training_images
from iqa_armor.training.purifier import FittedFilter, fit_attacks, fit_filter

UNDONE = (
    *("psnr_before", "psnr_after", "psnr_clean", "quality_before", "quality_after"),
    *("gain_before", "gain_after", "gain_clean"),
)
DIRECTIONS: dict[str, tuple[Direction, ...]] = {"up": (1,), "down": (-1,), "both": (1, -1)}


def build_threats(settings: PurifierSettings) -> list[Attack]:
    attacks: list[Attack] = []
    for epsilon in settings.epsilons:
        for sign in DIRECTIONS[settings.direction]:
            attacks += build_attacks(settings.attacks, epsilon=epsilon, direction=sign).values()
    return list(dict.fromkeys(attacks))


def forecast_purifier(
    model: QualityModel, dataset: Dataset, settings: PurifierSettings, device: torch.device
) -> list[Forecast]:
    images, attacks = dataset.training().limit(settings.limit), build_threats(settings)
    image, passes = model.prepare(images[0]), settings.epochs if settings.fresh else 1
    work: dict[str, Any] = {"device": device, "images": len(images), "batch_size": settings.batch_size}
    steps = passes * sum(map(steps_of, attacks)) / len(attacks)
    network = nn.Sequential(new_fcn(settings.seed), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    filtering = forecast(QualityModel(network, name="filter"), image, epochs=settings.epochs, **work)
    return [forecast(model, image, calls=1, gradients=steps, **work), filtering]


@dataclass(frozen=True)
class TrainedPurifier:
    """A trained filter, in eval mode on the CPU, what it undoes, and what its file says of its origin.

    `undone` has means over held-out images attacked ("before"), attacked and purified ("after"), and purified only
    ("clean"): PSNR to the clean images, in dB, `metrics.quality_score` and `metrics.gain_score`; and their number.
    """

    fitted: FittedFilter
    undone: dict[str, float]
    provenance: dict[str, Any]

    def save(self, path: Path | str) -> None:
        """Write the filter as one safetensors file, whole or not at all."""
        save_fcn(self.fitted.network, path, provenance=without_times(self.provenance))


def train_purifier(
    model: QualityModel,
    dataset: Dataset,
    settings: PurifierSettings | None = None,
    *,
    options: RunOptions | None = None,
) -> TrainedPurifier:
    """Return a filter trained to undo attacks of a model, which is moved to the device and else left as it was.

    It is attacked without a purifier; where it has no score scale, its scores on these images give it. A tenth of the
    training split is held out. Raises DataError if images are missing or unreadable, too few, or differ in size,
    RecipeError if the checkpoint is another run's, ArmorError if an attack is unknown, or training fails.
    """
    options, settings = options or RunOptions(), settings or PurifierSettings()
    attacks = build_threats(settings)
    model.eval().to(options.device)
    images = load_training_images(dataset.training().limit(settings.limit), model, options.progress)
    scale = model.scale or scale_of(model, score_all(model, images, options.progress), images.names)
    checkpoint = options.checkpoint_of(model, dataset, images, settings=settings.model_dump())
    ready = fit_attacks(model, attacks, images.fitted, batch_size=settings.batch_size, seed=settings.seed)
    fitted = fit_filter(model, images, ready, settings=settings, checkpoint=checkpoint, progress=options.progress)
    undone = _undone(model, fitted, scale, settings.batch_size)
    fitted.network.to("cpu")
    words, levels = list(map(str, settings.attacks)), [round(value * 255, 6) for value in settings.epsilons]
    threats = {"words": words, "epsilons": levels, "direction": settings.direction}
    used = {"training": len(images.fitted), "held_out": len(images.held_out)}
    epochs = [{**asdict(epoch), "loss": epoch.loss if epoch.number else None} for epoch in fitted.epochs]
    given = {"settings": settings.model_dump(include=set(FilterSettings.model_fields)), "attacks": threats}
    facts = {**given, "images_used": used, "epochs": epochs, "best_epoch": fitted.best, "held_out": undone}
    return TrainedPurifier(fitted, undone, provenance_of(model, dataset, seed=settings.seed, **facts))


@torch.no_grad()
def _undone(model: QualityModel, fitted: FittedFilter, scale: ScoreScale, batch_size: int) -> dict[str, float]:
    def normalised(images: Tensor) -> Tensor:
        return torch.as_tensor((model(images) - scale.low) / scale.width).cpu()

    rows: list[Sequence[Tensor]] = []
    for clean, attacked in fitted.held_out.batches(range(len(fitted.held_out)), batch_size, model.mean.device):
        purified, harmed = fitted.network(attacked), fitted.network(clean)
        score = normalised(clean)
        decibels = [psnr(clean, images).cpu() for images in (attacked, purified, harmed)]
        quality = [quality_score(clean, images).cpu() for images in (attacked, purified)]
        gains = [gain_score(score, normalised(images)) for images in (attacked, purified, harmed)]
        rows.append((*decibels, *quality, *gains))
    columns = zip(UNDONE, zip(*rows, strict=True), strict=True)
    return {**{name: float(torch.cat(column).mean()) for name, column in columns}, "images": len(fitted.held_out)}
