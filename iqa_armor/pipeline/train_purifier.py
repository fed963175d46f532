"""Train a purifier on attacks of a model, and say what it undoes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from iqa_armor.attacks import Attack, Direction
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.purifiers import save_fcn
from iqa_armor.errors import UsageError
from iqa_armor.evaluation import scale_of
from iqa_armor.metrics import gain_score, psnr, quality_score
from iqa_armor.models.base import QualityModel, ScoreScale
from iqa_armor.pipeline.attack import build_attacks
from iqa_armor.pipeline.devices import choose_device
from iqa_armor.pipeline.fitting import Material, Options, load_material, score_all
from iqa_armor.pipeline.provenance import provenance_of
from iqa_armor.training import FilterEpoch, FilterSettings, FittedFilter, fit_filter
from iqa_armor.training.pairs import fit_attacks

DIRECTIONS: dict[str, tuple[Direction, ...]] = {"up": (1,), "down": (-1,), "both": (1, -1)}


@dataclass(frozen=True)
class Threats:
    """Attacks that a purifier learns to undo.

    Args:
        words: What `parse_attack` reads.
        epsilons: Budgets of L-infinity attacks whose word names none, pixels being in [0, 1].
        direction: Whether attacks raise the score, lower it, or take turns.

    Raises:
        UsageError: If there is no budget or no attack.
    """

    words: tuple[str, ...] = ("pgd8",)
    epsilons: tuple[float, ...] = tuple(value / 255 for value in (2, 4, 6, 8, 10))
    direction: Literal["up", "down", "both"] = "up"

    def __post_init__(self) -> None:
        if not self.words or not self.epsilons or not all(0 < value <= 1 for value in self.epsilons):
            raise UsageError("a purifier needs attacks, at budgets above 0 and at most 255 (in 1/255), to learn from")

    def build(self) -> list[Attack]:
        """Return every attack at every budget and in every direction, each once."""
        return list(
            dict.fromkeys(
                attack
                for epsilon in self.epsilons
                for sign in DIRECTIONS[self.direction]
                for attack in build_attacks(self.words, epsilon=epsilon, direction=sign).values()
            )
        )


@dataclass(frozen=True)
class Undone:
    """Means over held-out images, without the purifier (before) and with it (after).

    Args:
        psnr_before: Between attacked and clean images, in dB.
        psnr_after: Between purified attacked and clean images, in dB.
        psnr_clean: Between purified clean and clean images, in dB: what the purifier costs where nobody attacks.
        quality_before: Quality score of attacked images, `metrics.quality_score`.
        quality_after: Of purified attacked images.
        gain_before: Gain score of attacked images, `metrics.gain_score`.
        gain_after: Of purified attacked images.
        gain_clean: Of purified clean images.
        images: Number of held-out images.
    """

    psnr_before: float
    psnr_after: float
    psnr_clean: float
    quality_before: float
    quality_after: float
    gain_before: float
    gain_after: float
    gain_clean: float
    images: int


@dataclass(frozen=True)
class TrainedPurifier:
    """A trained filter and what it does.

    Args:
        fitted: The filter, in eval mode on the CPU, and what each epoch gave.
        undone: On held-out images.
        provenance: Model, attacks, data and versions, as stored in the file.
    """

    fitted: FittedFilter
    undone: Undone
    provenance: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the filter as one safetensors file, atomically."""
        save_fcn(self.fitted.network, path, provenance=self.provenance)


def train_purifier(
    model: QualityModel,
    dataset: Dataset,
    settings: FilterSettings,
    *,
    threats: Threats | None = None,
    limit: int | None = None,
    options: Options | None = None,
) -> TrainedPurifier:
    """Return a filter trained to undo attacks of a model, which is moved to the device and else left as it was.

    Args:
        model: Attacked without a purifier; without a score scale, its scores on these images give it.
        dataset: Scored images; only its training split is used, a tenth of it held out.
        settings: Epochs, step size and the rest.
        threats: Attacks, budgets and direction; PGD-8 at the paper's budgets by default.
        limit: Number of training images used, spread evenly; all by default.
        options: How this machine does it.

    Raises:
        DataError: If images are missing or unreadable, too few, or differ in size.
        UsageError: If an attack is unknown.
        ArmorError: If training fails.
    """
    options, threats = options or Options(), threats or Threats()
    attacks = threats.build()
    model.eval().to(choose_device(options.device))
    material = load_material(dataset.training().limit(limit), model, options.progress)
    scale = model.scale or scale_of(model, score_all(model, material, options.progress), material.names)
    ready = fit_attacks(model, attacks, material.fitting, batch_size=settings.batch_size, seed=settings.seed)
    fitted = fit_filter(
        model,
        (material.fitting, material.held_out),
        ready,
        settings=settings,
        on_attack=lambda done, total: options.progress("attacking", done, total),
        on_step=lambda done, total: options.progress("training the filter", done, total),
        on_epoch=lambda epoch: options.progress("epochs", epoch.number, settings.epochs, describe(epoch)),
    )
    undone = _undone(model, fitted, scale, settings.batch_size)
    fitted.network.to("cpu")
    facts = _facts(fitted, undone, threats, settings, material)
    return TrainedPurifier(fitted, undone, provenance_of(model, dataset, seed=settings.seed, facts=facts))


def describe(epoch: FilterEpoch) -> str:
    """Return a line on an epoch that just ended."""
    return f"epoch {epoch.number}: held-out loss {epoch.held_out:.6f}, PSNR {epoch.psnr:.2f} dB"


def _facts(
    fitted: FittedFilter, undone: Undone, threats: Threats, settings: FilterSettings, material: Material
) -> dict[str, Any]:
    epochs = [{**asdict(epoch), "loss": epoch.loss if epoch.number else None} for epoch in fitted.epochs]
    return {
        "settings": asdict(settings),
        "attacks": {**asdict(threats), "epsilons": [round(value * 255, 6) for value in threats.epsilons]},
        "images_used": {"training": len(material.fitting), "held_out": len(material.held_out)},
        "epochs": epochs,
        "best_epoch": fitted.best,
        "held_out": asdict(undone),
    }


@torch.no_grad()
def _undone(model: QualityModel, fitted: FittedFilter, scale: ScoreScale, batch_size: int) -> Undone:
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
    names = [field.name for field in fields(Undone) if field.name != "images"]
    columns = zip(names, zip(*rows, strict=True), strict=True)
    means = {name: float(torch.cat(column).mean()) for name, column in columns}
    return Undone(images=len(fitted.held_out), **means)
