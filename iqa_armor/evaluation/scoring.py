"""Scores of one model on one image set, clean and attacked, one number per image."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from iqa_armor.attacks import Attack, frozen, run_sweep
from iqa_armor.data.base import ImageSet
from iqa_armor.data.transforms import PreparedImages, batches
from iqa_armor.errors import ArmorError, ModelLoadError
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.metrics import linf, psnr
from iqa_armor.models.base import QualityModel

BUDGET_TOLERANCE = 1e-6  # rounding of float32 pixels
Column = Mapping[str, Mapping[float, Tensor]]  # attack → budget in [0, 1] → (N,)


@dataclass(frozen=True)
class ImageScores:
    """Per-image results of one model on one image set, on the CPU in float64.

    Args:
        names: Names of the images.
        mos: Opinion scores (N,), or None.
        clean: Scores of the clean images (N,), in model units.
        attacked: Scores of the attacked images, by attack and budget.
        linf: True largest change of a pixel, by attack and budget.
        psnr: Decibels between clean and attacked, by attack and budget.
        seconds_per_image: Median time of the clean forward passes.
    """

    names: tuple[str, ...]
    mos: Tensor | None
    clean: Tensor
    attacked: Column
    linf: Column
    psnr: Column
    seconds_per_image: float


class _Collector:
    """Per-image numbers of the batches so far."""

    def __init__(self) -> None:
        self.clean: list[Tensor] = []
        self.seconds: list[float] = []
        self.parts: dict[str, dict[str, dict[float, list[Tensor]]]] = {
            measure: defaultdict(lambda: defaultdict(list)) for measure in ("attacked", "linf", "psnr")
        }

    def add(self, measure: str, attack: str, epsilon: float, values: Tensor) -> None:
        self.parts[measure][attack][epsilon].append(values.double().cpu())

    def column(self, measure: str) -> Column:
        return {
            attack: {epsilon: torch.cat(parts) for epsilon, parts in sorted(budgets.items())}
            for attack, budgets in self.parts[measure].items()
        }


def score_images(
    model: QualityModel,
    images: ImageSet,
    *,
    prepare: Callable[[Tensor], Tensor],
    settings: EvaluationSettings,
    on_batch: Callable[[int], None] | None = None,
) -> ImageScores:
    """Score every image clean and under every attack and budget; only numbers are kept.

    The model is frozen meanwhile and left as it was; attacked images are checked against budget and range.

    Args:
        model: On the settings' device already.
        images: The set; not empty.
        prepare: Turns a uint8 image (3, H, W) into the float image the network sees.
        settings: Attacks, budgets, batch size, seed.
        on_batch: Called with the number of images done after each batch.

    Raises:
        ModelLoadError: If a score is not finite, naming model and image.
        ArmorError: If an attack leaves its budget or the range of pixels.
    """
    attacks = settings.build_attacks()
    generator = torch.Generator(device=settings.device).manual_seed(settings.seed)
    collector, done = _Collector(), 0
    with frozen(model):
        for pixels, _, indices in batches(PreparedImages(images, prepare), settings.batch_size):
            names = [images.names[int(i)] for i in indices]
            batch = _Batch(model, pixels.to(settings.device), names, collector)
            batch.score_clean()
            batch.score_attacked(attacks, settings.epsilons, generator)
            done += len(names)
            if on_batch is not None:
                on_batch(done)
    return ImageScores(
        names=images.names,
        mos=None if images.mos is None else images.mos.double(),
        clean=torch.cat(collector.clean),
        attacked=collector.column("attacked"),
        linf=collector.column("linf"),
        psnr=collector.column("psnr"),
        seconds_per_image=statistics.median(collector.seconds),
    )


@dataclass(frozen=True)
class _Batch:
    model: QualityModel
    images: Tensor
    names: list[str]
    collector: _Collector

    def score_clean(self) -> None:
        start = _now(self.images)
        scores = self.score(self.images, "clean")
        self.collector.seconds.append((_now(self.images) - start) / len(self.images))
        self.collector.clean.append(scores.double().cpu())

    def score_attacked(
        self, attacks: Mapping[str, Attack], epsilons: tuple[float, ...], generator: torch.Generator
    ) -> None:
        runs = run_sweep(attacks, self.model, self.images, epsilons=epsilons, generator=generator)
        for run in runs:
            scores = self.score(run.images, run.attack)
            distance, decibels = linf(self.images, run.images), psnr(self.images, run.images)
            for epsilon in run.epsilons:
                check_budget(run.attack, epsilon, distance=distance, images=run.images)
                self.collector.add("attacked", run.attack, epsilon, scores)
                self.collector.add("linf", run.attack, epsilon, distance)
                self.collector.add("psnr", run.attack, epsilon, decibels)

    def score(self, images: Tensor, state: str) -> Tensor:
        with torch.no_grad():
            scores: Tensor = self.model(images)
        if not bool(scores.isfinite().all()):
            bad = self.names[int((~scores.isfinite()).nonzero()[0])]
            raise ModelLoadError(
                f"{self.model.name} gives a score that is not finite for image {bad!r} ({state}); "
                "check its weights and preprocessing"
            )
        return scores


def check_budget(attack: str, epsilon: float, *, distance: Tensor, images: Tensor) -> None:
    """Refuse attacked images outside their budget or outside [0, 1].

    Args:
        attack: Name of the attack, for the message.
        epsilon: Its L-infinity budget in [0, 1] units.
        distance: True distance of each image (N,).
        images: The attacked images (N, 3, H, W).

    Raises:
        ArmorError: Naming the attack and by how much it went too far.
    """
    farthest, low, high = float(distance.max()), float(images.min()), float(images.max())
    if not farthest <= epsilon + BUDGET_TOLERANCE:
        raise ArmorError(
            f"attack {attack} moved a pixel by {farthest * 255:.4g}/255, more than its budget of {epsilon * 255:g}/255"
        )
    if not (low >= -BUDGET_TOLERANCE and high <= 1 + BUDGET_TOLERANCE):
        raise ArmorError(f"attack {attack} left the pixel range [0, 1]: [{low:.4g}, {high:.4g}]")


def _now(images: Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter()
