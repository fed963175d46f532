"""The rows of one model on one image set, clean and attacked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.budgets import budget_key
from iqa_armor.attacks.plan import Plan, run_plan
from iqa_armor.data.base import ImageSet
from iqa_armor.data.prepared import PreparedImages, batches
from iqa_armor.defenses.purified import Purified
from iqa_armor.errors import DataError, ModelLoadError
from iqa_armor.evaluation.budgets import check_budget
from iqa_armor.evaluation.journal import Block, Journal, digest_of
from iqa_armor.evaluation.randomness import generator_for, reseed
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.shards import Shard
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


@dataclass(frozen=True)
class SetScorer:
    """Scores one model on one image set, in blocks that are kept and shared.

    Args:
        model: On the device already.
        images: The set; not empty.
        prepare: Turns a uint8 image (3, H, W) into the float image the network sees.
        plan: Returns the attacks; called for every block that is scored.
        settings: Batch size and seed.
        device: Where the model is.
        part: Name of the model on this set in a journal.
        set_number: Position of the image set; what is drawn depends on it, and not on the model.
    """

    model: QualityModel
    images: ImageSet
    prepare: Callable[[Tensor], Tensor]
    plan: Callable[[], Plan]
    settings: EvaluationSettings
    device: torch.device
    part: str = "model-0"
    set_number: int = 0

    def rows(
        self,
        *,
        journal: Journal | None = None,
        shard: Shard | None = None,
        on_image: Callable[[int], None] | None = None,
    ) -> Table:
        """Score every image clean and under every attack and budget; the rows name neither model nor image set.

        The model is frozen meanwhile and left as it was. Blocks that the journal holds are not computed again, but
        their images are compared; `on_image` is called with the number of images done after each block.

        Raises:
            ModelLoadError: If a score is not finite, naming model and image.
            DataError: If an image cannot be read, or is not what it was when the evaluation began.
            ArmorError: If an attack leaves its budget or the range of pixels.
        """
        journal, shard = journal or Journal(), shard or Shard()
        blocks, done = journal.finished(self.part), 0
        count = -(-len(self.images) // self.settings.batch_size)
        with frozen(self.model):
            for number, parts in self._decoded([n for n in range(count) if n in blocks or shard.owns(n)]):
                if number in blocks:
                    self._require_same(blocks[number], parts)
                else:
                    blocks[number] = self._block(number, parts)
                    journal.add(self.part, blocks[number])
                done += sum(map(len, parts))
                if on_image is not None:
                    on_image(done)
        rows = Table.joined([block.rows for _, block in sorted(shard.gather(blocks).items())])
        if self.images.mos is None:
            return rows
        opinions = dict(zip(self.images.names, self.images.mos.double().tolist(), strict=True))
        return rows.changed(mos=[opinions[name] for name in rows["image"]])

    def _decoded(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield blocks of images as batches of one size each; the next one is decoded meanwhile."""
        size, total = self.settings.batch_size, len(self.images)

        def decode(number: int) -> list[Tensor]:
            chosen = self.images.select(range(number * size, min((number + 1) * size, total)))
            return [pixels for pixels, _, _ in batches(PreparedImages(chosen, self.prepare), size)]

        with ThreadPoolExecutor(1) as pool:
            waiting = [pool.submit(decode, number) for number in numbers[:1]]
            for position, number in enumerate(numbers):
                parts = waiting.pop().result()
                waiting += [pool.submit(decode, following) for following in numbers[position + 1 : position + 2]]
                yield number, parts

    def _require_same(self, block: Block, parts: Sequence[Tensor]) -> None:
        if block.digest != digest_of(parts):
            count = len(block.rows.where(attack=CLEAN))
            raise DataError(
                f"the {count} images from {block.rows['image'][0]!r} on are not those that this evaluation began with; "
                "restore them, or name another output folder"
            )

    def _block(self, number: int, parts: Sequence[Tensor]) -> Block:
        plan, done, rows = self.plan(), 0, []
        for pixels in parts:
            first = number * self.settings.batch_size + done
            names = self.images.names[first : first + len(pixels)]
            batch = Batch(self.model, self.settings, pixels.to(self.device), names, (self.set_number, number), done)
            clean = batch.clean()
            done += len(pixels)
            rows += [clean, batch.attacked(plan)]
        return Block(number, digest_of(parts), Table.joined(rows))
