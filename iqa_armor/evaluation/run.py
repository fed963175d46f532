"""One model on all datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.plan import Plan
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.prepared import PreparedImages, batches, to_float
from iqa_armor.defenses.base import Defended, Threat
from iqa_armor.errors import ModelLoadError
from iqa_armor.evaluation.checks import check_strength
from iqa_armor.evaluation.cost import count_flops, count_parameters
from iqa_armor.evaluation.journal import Journal, model_digest
from iqa_armor.evaluation.planning import plan_attacks, reseed
from iqa_armor.evaluation.probing import Probe
from iqa_armor.evaluation.scale import measure_scale
from iqa_armor.evaluation.scoring import ImageScores, score_images
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.shards import Shard
from iqa_armor.evaluation.surface import bare, surface_of
from iqa_armor.evaluation.work import Work
from iqa_armor.models.base import QualityModel, ScoreScale
from iqa_armor.results import Check

STORED = "stored with the model"


@dataclass(frozen=True)
class Progress:
    """How many images of a dataset one model has been evaluated on."""

    model: str
    dataset: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class ModelRun:
    """What a model is and what it scored, by dataset spec."""

    name: str
    arch: str
    parameters: int
    flops: int
    scale: ScoreScale
    scale_source: str
    scores: dict[str, ImageScores]
    checks: tuple[Check, ...] = ()
    defense: str = ""
    defends: str = ""
    threat: Threat | None = None


@dataclass(frozen=True)
class Bookkeeping:
    """Where results are kept and which of them this process works on.

    Args:
        journal: Where finished blocks of images are kept.
        shard: Share of this process.
        on_progress: Called after each block.
        scales: Score ranges measured so far, by model.
    """

    journal: Journal = field(default_factory=Journal)
    shard: Shard = field(default_factory=Shard)
    on_progress: OnProgress | None = None
    scales: dict[QualityModel, tuple[ScoreScale, str]] = field(default_factory=dict)

    def reporter(self, model: str, dataset: str, *, total: int) -> Callable[[int], None] | None:
        """Return what reports how many of `total` images are done."""
        tell = self.on_progress
        return None if tell is None else lambda done: tell(Progress(model, dataset, done, total))


def run_model(
    model: QualityModel,
    datasets: Sequence[Dataset],
    settings: EvaluationSettings,
    *,
    surrogate: QualityModel | None = None,
    books: Bookkeeping | None = None,
) -> ModelRun:
    """Score one model clean and attacked on the reported split of every dataset; it is left as it was.

    Args:
        model: Moved to the settings' device meanwhile.
        datasets: At least one.
        settings: Attacks, budgets, device, seed.
        surrogate: Another model whose attacks the checks of strength borrow.
        books: Where results are kept, and progress reported.

    Raises:
        ModelLoadError: If the model has no score range and none can be measured, or a score is not finite.
        DataError: If images changed since the evaluation began.
        ArmorError: If an attack leaves its budget or the range of pixels.
    """
    books = books or Bookkeeping()
    with on_device(model, settings.device):
        scale, source = resolve_scale(model, datasets, settings, books=books)
        sample = prepare_for(model, datasets[0])(reported_images(datasets[0], settings)[0])
        fitting = books.on_progress

        def on_fit(attack: str, done: int, total: int) -> None:
            if fitting is not None:
                fitting(Progress(model.name, f"training images (learning {attack})", done, total))

        @cache
        def plan() -> Plan:
            return plan_attacks(model, datasets, settings, on_fit=on_fit)

        scores, digest = {}, model_digest(model)
        for position, dataset in enumerate(datasets):
            images = reported_images(dataset, settings)
            work = Work(model, images, prepare_for(model, dataset), plan, settings, digest, position)
            report = books.reporter(model.name, dataset.spec, total=len(images))
            scores[dataset.spec] = score_images(work, journal=books.journal, shard=books.shard, on_image=report)
        wants_checks = settings.checks and not (isinstance(model, Defended) and model.threat == "bare")
        checks = _checks(model, datasets[0], settings, scale, surrogate, books) if wants_checks else ()
        return ModelRun(
            name=model.name,
            arch=model.arch,
            parameters=count_parameters(model),
            flops=count_flops(model, sample),
            scale=scale,
            scale_source=source,
            scores=scores,
            checks=checks,
            defense=model.description if isinstance(model, Defended) else "",
            defends=bare(model).name if isinstance(model, Defended) else "",
            threat=model.threat if isinstance(model, Defended) else None,
        )


def _checks(
    model: QualityModel,
    dataset: Dataset,
    settings: EvaluationSettings,
    scale: ScoreScale,
    surrogate: QualityModel | None,
    books: Bookkeeping,
) -> tuple[Check, ...]:
    if surrogate is not None and surrogate.preprocessing.size != model.preprocessing.size:
        surrogate = None  # it may not take this model's images
    chosen = reported_images(dataset, settings).limit(settings.check_images)
    images, _, _ = next(batches(PreparedImages(chosen, prepare_for(model, dataset)), settings.check_images))
    probe = Probe(
        score=model,
        surface=surface_of(model, settings.eot),
        images=images.to(settings.device),
        width=scale.width,
        epsilon=settings.headline_epsilon,
        direction=settings.direction,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    tell = books.on_progress

    def on_check(done: int, total: int) -> None:
        if tell is not None:
            tell(Progress(model.name, f"{len(images)} images (checks of strength)", done, total))

    reseed(model, settings, "checks")
    with frozen(model), frozen(surrogate or model), on_device(surrogate or model, settings.device):
        return check_strength(probe, settings.epsilons, surrogate=surrogate, on_check=on_check)


def resolve_scale(
    model: QualityModel,
    datasets: Sequence[Dataset],
    settings: EvaluationSettings,
    *,
    books: Bookkeeping | None = None,
) -> tuple[ScoreScale, str]:
    """Return the model's score range and where it comes from: the model, else a training split.

    That of a defended model is that of the model behind its defenses, so that gains can be compared.

    Raises:
        ModelLoadError: If there is neither.
    """
    model, books = bare(model), books or Bookkeeping()
    if model.scale is not None:
        return model.scale, STORED
    if model in books.scales:
        return books.scales[model]
    for dataset in datasets:
        training = dataset.splits.get("training")
        if training is not None and len(training):
            images = training.limit(settings.limit)
            prepare = prepare_for(model, dataset)
            report = books.reporter(model.name, f"{dataset.spec} (score range)", total=len(images))
            scale = measure_scale(model, images, prepare=prepare, batch_size=settings.batch_size, on_batch=report)
            books.scales[model] = scale, f"measured on {len(images)} training images of {dataset.spec}"
            return books.scales[model]
    raise ModelLoadError(
        f"the range of {model.name}'s scores is not known and no dataset has training images to measure it "
        "on; give it with --score-range LOW,HIGH or name a dataset with a training split"
    )


def reported_images(dataset: Dataset, settings: EvaluationSettings) -> ImageSet:
    """Return the images of the reported split that the settings' limit leaves."""
    return dataset.reported()[1].limit(settings.limit)


def prepare_for(model: QualityModel, dataset: Dataset) -> Callable[[Tensor], Tensor]:
    """Return what turns a uint8 image into the network's: nothing but scaling where sizes are kept."""
    return to_float if dataset.keeps_size else model.prepare


@contextmanager
def on_device(model: QualityModel, device: torch.device) -> Iterator[None]:
    """Move a model to a device while the block runs, and back afterwards."""
    home = model.mean.device
    try:
        model.to(device)
        yield
    finally:
        model.to(home)
