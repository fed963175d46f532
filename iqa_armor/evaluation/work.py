"""One model on one image set: what is scored, and the scores of one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.budgets import budget_key
from iqa_armor.attacks.plan import Plan, run_plan
from iqa_armor.data.base import ImageSet
from iqa_armor.defenses.purified import Purified
from iqa_armor.errors import ModelLoadError
from iqa_armor.evaluation.budgets import check_budget
from iqa_armor.evaluation.journal import Block
from iqa_armor.evaluation.planning import generator_for, reseed
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.surface import bare, surface_of
from iqa_armor.metrics import linf, psnr, quality_score
from iqa_armor.models.base import QualityModel

MEASURES = ("attacked", "linf", "psnr")
QUALITY = "quality"  # measured behind purifiers only


@dataclass(frozen=True)
class Work:
    """One model on one image set.

    Args:
        model: On the settings' device already.
        images: The set; not empty.
        prepare: Turns a uint8 image (3, H, W) into the float image the network sees.
        plan: Returns the attacks, one per budget; called when the first block is scored.
        settings: Batch size, device and seed.
        model_digest: What tells the model's results from those of others in a journal.
        set_number: Position of the image set; what is drawn depends on it, and not on the model.
    """

    model: QualityModel
    images: ImageSet
    prepare: Callable[[Tensor], Tensor]
    plan: Callable[[], Plan]
    settings: EvaluationSettings
    model_digest: str = "model"
    set_number: int = 0

    @property
    def measures(self) -> tuple[str, ...]:
        """What is measured of each attacked image."""
        return (*MEASURES, QUALITY) if isinstance(self.model, Purified) else MEASURES

    @property
    def part(self) -> str:
        """Name of this work in a journal."""
        return f"{self.model_digest}-{self.set_number}"


@dataclass(frozen=True)
class Batch:
    """Images of one size; what is found goes to the block's columns."""

    work: Work
    images: Tensor
    names: Sequence[str]
    block: Block

    def score_clean(self) -> None:
        """Score the clean images; behind a purifier, measure also what it does to them."""
        model = self.work.model
        if isinstance(model, Purified):
            with torch.no_grad():
                self.block.bare.extend(bare(model)(self.images).double().tolist())
            self.block.clean_quality.extend(self.quality(self.images, "clean").double().tolist())
        start = _now(self.images)
        scores = self.score(self.images, "clean")
        self.block.seconds.append((_now(self.images) - start) / len(self.images))
        self.block.clean.extend(scores.double().tolist())

    def score_attacked(self) -> None:
        """Attack the images with every attack and budget, and measure what comes of it."""
        work, plan, drawn = self.work, self.work.plan(), len(self.block.clean)
        self.open_columns(plan)

        def generator(name: str) -> Generator:
            reseed(work.model, work.settings, "run", work.set_number, self.block.number, drawn, name)
            return generator_for(work.settings, "run", work.set_number, self.block.number, drawn, name)

        surface = surface_of(work.model, work.settings.eot)
        for run in run_plan(plan, surface, self.images, generator=generator):
            distance = linf(self.images, run.images)
            values = {"attacked": self.score(run.images, run.attack).double(), "linf": distance}
            values["psnr"] = psnr(self.images, run.images)
            if QUALITY in work.measures:
                values[QUALITY] = self.quality(run.images, run.attack)
            for attack in run.budgets:
                check_budget(run.attack, attack, clean=self.images, attacked=run.images)
                for measure, found in values.items():
                    self.block.columns[measure][run.attack][budget_key(attack)].extend(found.double().tolist())

    def open_columns(self, plan: Plan) -> None:
        """Make the columns in the order of attacks and budgets, whatever order they are run in."""
        for name, attacks in plan.items():
            for attack in attacks:
                for measure in self.work.measures:
                    self.block.columns[measure].setdefault(name, {}).setdefault(budget_key(attack), [])

    def quality(self, images: Tensor, state: str) -> Tensor:
        """Return the quality (N,) of purified images, with the draws that they are scored with."""
        model = self.work.model
        self.reseed(state)
        with torch.no_grad():
            return quality_score(self.images, model.purify(images, model.next_generator(images)))  # type: ignore[operator]

    def reseed(self, state: str) -> None:
        """Let what a defense draws follow from the place of these images and their state."""
        place = self.work.set_number, self.block.number, len(self.block.clean)
        reseed(self.work.model, self.work.settings, "score", *place, state)

    def score(self, images: Tensor, state: str) -> Tensor:
        """Return the scores (N,) of these images in some state.

        Raises:
            ModelLoadError: If one is not finite.
        """
        self.reseed(state)
        with torch.no_grad():
            scores: Tensor = self.work.model(images)
        if not bool(scores.isfinite().all()):
            bad = self.names[int((~scores.isfinite()).nonzero()[0])]
            raise ModelLoadError(
                f"{self.work.model.name} gives a score that is not finite for image {bad!r} ({state}); "
                "check its weights and preprocessing"
            )
        return scores


def _now(images: Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter()
