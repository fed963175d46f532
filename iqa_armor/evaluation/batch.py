"""The rows of the table that one batch of images gives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.budgets import budget_key
from iqa_armor.attacks.plan import Plan, run_plan
from iqa_armor.defenses.purified import Purified
from iqa_armor.errors import ModelLoadError
from iqa_armor.evaluation.budgets import check_budget
from iqa_armor.evaluation.randomness import generator_for, reseed
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.threats import followed_score, undefended
from iqa_armor.metrics.fidelity import l2, linf, psnr
from iqa_armor.metrics.purification import quality_score
from iqa_armor.models.base import QualityModel
from iqa_armor.results.table import CLEAN, Table

CLEAN_STATE = "clean"


@dataclass(frozen=True)
class Batch:
    """Images of one size and the frozen model that scores them, on one device.

    Args:
        images: Clean images (N, 3, H, W).
        place: Numbers of the image set and the block; what is drawn follows from them, not from the model.
        first: How many images of the block come before these.
    """

    model: QualityModel
    settings: EvaluationSettings
    images: Tensor
    names: Sequence[str]
    place: tuple[int, int]
    first: int = 0

    def clean(self) -> Table:
        """Score the clean images; behind a purifier, measure also what it does to them."""
        more: dict[str, Any] = {}
        if isinstance(self.model, Purified):
            with torch.no_grad():
                more["undefended"] = _numbers(undefended(self.model)(self.images))
        start = _now(self.images)
        scores = self._score(self.images, CLEAN_STATE)
        seconds = (_now(self.images) - start) / len(self.images)
        return self._rows(scores=scores, seconds=seconds, **more, **self._quality(self.images, CLEAN_STATE))

    def attacked(self, plan: Plan) -> Table:
        """Attack the images with every attack at every budget, in the order of the plan, and measure what comes of it.

        Raises:
            ModelLoadError: If a score is not finite.
            ArmorError: If an attack leaves its budget or the range of pixels.
        """
        found: dict[tuple[str, str], Table] = {}
        score = followed_score(self.model, self.settings.eot)
        for run in run_plan(plan, score, self.images, generator=self._generator):
            for attack in run.budgets:
                check_budget(run.attack, attack, clean=self.images, attacked=run.images)
            measured = self._rows(
                attack=run.attack,
                scores=self._score(run.images, run.attack),
                linf=_numbers(linf(self.images, run.images)),
                l2=_numbers(l2(self.images, run.images)),
                psnr=_numbers(psnr(self.images, run.images)),
                **self._quality(run.images, run.attack),
            )
            for key in map(budget_key, run.budgets):
                found[run.attack, key] = measured.changed(budget=key)
        return Table.joined([found[name, budget_key(each)] for name, attacks in plan.items() for each in attacks])

    def _rows(self, *, scores: Tensor, attack: str = CLEAN, **more: Any) -> Table:
        return Table.of(len(scores), image=list(self.names), attack=attack, score=_numbers(scores), **more)

    def _generator(self, name: str) -> Generator:
        """Return what an attack draws from; a random defense starts anew with it."""
        purpose = "run", *self.place, self.first + len(self.images), name
        reseed(self.model, self.settings.seed, *purpose)
        return generator_for(self.settings.seed, self.images.device, *purpose)

    def _reseed(self, state: str) -> None:
        scored = self.first + len(self.images) * (state != CLEAN_STATE)
        reseed(self.model, self.settings.seed, "score", *self.place, scored, state)

    def _quality(self, images: Tensor, state: str) -> dict[str, Any]:
        """Return the quality of purified images, with the draws that they are scored with, if there is a purifier."""
        if not isinstance(self.model, Purified):
            return {}
        self._reseed(state)
        with torch.no_grad():
            purified = self.model.purify(images, self.model.next_generator(images))
        return {"quality": _numbers(quality_score(self.images, purified))}

    def _score(self, images: Tensor, state: str) -> Tensor:
        self._reseed(state)
        with torch.no_grad():
            scores: Tensor = self.model(images)
        if not bool(scores.isfinite().all()):
            bad = self.names[int((~scores.isfinite()).nonzero()[0])]
            raise ModelLoadError(
                f"{self.model.name} gives a score that is not finite for image {bad!r} ({state}); "
                "check its weights and preprocessing"
            )
        return scores


def _numbers(values: Tensor) -> list[float]:
    return values.double().tolist()


def _now(images: Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter()
