"""The rows of one model on every dataset, clean and attacked."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.budgets import budget_key, turned
from iqa_armor.attacks.plan import Plan, run_plan
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.prepared import PreparedImages, ahead, batches
from iqa_armor.defenses.defended import Purified
from iqa_armor.errors import DataError, ModelLoadError
from iqa_armor.evaluation.journal import Block, digest_of, model_digest
from iqa_armor.evaluation.run import Run, check_budget, followed_score, prepare_for, restart, undefended
from iqa_armor.evaluation.settings import RANKING, EvaluationSettings
from iqa_armor.machine import time_on
from iqa_armor.metrics.fidelity import l2, linf, psnr, quality_score
from iqa_armor.models.base import QualityModel
from iqa_armor.results.table import CLEAN, Table

CLEAN_STATE = "clean"


def score_datasets(run: Run, model: QualityModel) -> dict[str, Table]:
    """Return the rows of a model, which is on the device, by dataset: every image clean and under every attack.

    Images are scored in blocks that are kept and shared; those that the journal holds are not computed again, but
    their images are compared. Raises ModelLoadError if a score is not finite, DataError if an image cannot be read, or
    is not what it was when the evaluation began, ArmorError if an attack leaves its budget or the range of pixels.
    """
    digest, scorers = model_digest(model), [_SetScorer(run, model, *each) for each in enumerate(run.datasets)]
    return {scorer.dataset.spec: scorer.rows(f"{digest}-{scorer.number}") for scorer in scorers}


@dataclass(frozen=True)
class _SetScorer:
    run: Run
    model: QualityModel
    number: int
    dataset: Dataset

    @cached_property
    def images(self) -> ImageSet:
        return self.run.images(self.dataset)

    def rows(self, part: str) -> Table:
        run, images, shard, done = self.run, self.images, self.run.journal.shard, 0
        blocks, told = run.journal.finished(part), run.teller(self.model, self.dataset.spec, len(images))
        mine = [n for n in self._places if n in blocks or n % shard.count == shard.rank]
        with frozen(self.model):
            for number, parts in self._decoded(mine):
                if number in blocks and blocks[number].digest != digest_of(parts):
                    rows = blocks[number].rows
                    which = f"{len(rows.where(attack=CLEAN))} images from {rows['image'][0]!r} on"
                    advice = "restore them, or name another output folder"
                    raise DataError(f"the {which} are not those that this evaluation began with; {advice}")
                if number not in blocks:
                    blocks[number] = self._block(number, parts)
                    run.journal.add(part, blocks[number])
                done += sum(map(len, parts))
                told(done)
        rows = Table.joined([block.rows for _, block in sorted(shard.gather(blocks).items())])
        opinions = {} if images.mos is None else dict(zip(images.names, images.mos.double().tolist(), strict=True))
        mos = [opinions.get(name, math.nan) for name in rows["image"]]
        return rows.changed(model=self.model.name, dataset=self.dataset.spec, mos=mos)

    @cached_property
    def ways(self) -> dict[str, int]:
        """Whether an attack on the ranking raises (+1) or lowers (−1) the score of each image.

        Images rated below the median of the training labels, else of these, are to seem better, the others worse;
        without opinion scores the model's own clean ones decide.
        """
        sign, known = 1 if undefended(self.model).higher_is_better else -1, None
        if self.images.mos is None:
            found = []
            with frozen(self.model), torch.no_grad():
                for number, parts in self._decoded(self._places):
                    restart(self.model, self.run.settings.seed, "ways", self.number, number)
                    found += [self.model(pixels.to(self.run.device)).float().cpu() for pixels in parts]
            quality = sign * torch.cat(found)
        else:
            training = self.dataset.splits.get("training")
            quality, known = self.images.mos, training.mos if training else None
        raised = quality < (quality if known is None else known).median()
        return dict(zip(self.images.names, (sign * torch.where(raised, 1, -1)).tolist(), strict=True))

    @property
    def _places(self) -> range:
        return range(-(-len(self.images) // self.run.settings.batch_size))

    def _decoded(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield blocks of images as batches of one size each; the next one is decoded meanwhile."""
        size, images, prepare = self.run.settings.batch_size, self.images, prepare_for(self.model, self.dataset)

        def decode(number: int) -> list[Tensor]:
            chosen = images.select(range(number * size, min((number + 1) * size, len(images))))
            return [pixels for pixels, _, _ in batches(PreparedImages(chosen, prepare), size)]

        yield from zip(numbers, ahead(decode, numbers, workers=1, waiting=1), strict=True)

    def _block(self, number: int, parts: Sequence[Tensor]) -> Block:
        run, done, rows = self.run, 0, []
        names = self.images.names[number * run.settings.batch_size :]
        plan: Plan = {name: run.attack(self.model, name) for name in run.settings.named_attacks()}
        turning = [run.lent(self.model, attack) for attack in run.settings.ranking_attacks()]
        ranking: Plan = {RANKING: turning} if turning else {}
        plain, ranked = ({}, {**plan, **ranking}) if run.settings.direction == "rank" else (plan, ranking)
        for pixels in parts:
            now = names[done : done + len(pixels)]
            batch = _Batch(self.model, run.settings, pixels.to(run.device), now, (self.number, number), done)
            rows += [batch.clean(), batch.attacked(plain)]
            if ranked:
                rows.append(batch.turned(ranked, [self.ways[name] for name in now]))
            done += len(pixels)
        return Block(number, digest_of(parts), Table.joined(rows))


@dataclass(frozen=True)
class _Batch:
    """Clean images (N, 3, H, W) of one size and the frozen model that scores them, on one device."""

    model: QualityModel
    settings: EvaluationSettings
    images: Tensor
    names: Sequence[str]
    place: tuple[int, int]  # numbers of dataset and block, from which follows what is drawn, and not from the model
    first: int  # so many images of the block come before these

    def clean(self) -> Table:
        """Score the clean images; behind a purifier without it, too."""
        if not isinstance(self.model, Purified):
            return self._scored(self.images)
        with torch.no_grad():
            bare = undefended(self.model)(self.images)
        return self._scored(self.images, undefended=_numbers(bare))

    def turned(self, plan: Plan, ways: Sequence[int]) -> Table:
        """Attack each image in its own direction, +1 or −1; rows are in the order of the plan and of the images."""
        tables = []
        for way in (1, -1):
            chosen = [number for number, own in enumerate(ways) if own == way]
            if chosen:
                part = replace(self, images=self.images[chosen], names=[self.names[number] for number in chosen])
                tables.append(part.attacked({n: [turned(a, way) for a in attacks] for n, attacks in plan.items()}))
        table = Table.joined(tables)
        rows = {key: row for row, key in enumerate(zip(table["attack"], table["budget"], table["image"], strict=True))}
        states = [(name, budget_key(attack)) for name, attacks in plan.items() for attack in attacks]
        order = [rows[*state, image] for state in states for image in self.names]
        return table.take(order).changed(way=list(ways) * len(states))

    def attacked(self, plan: Plan) -> Table:
        """Attack the images with every attack at every budget; rows are in the order of the plan."""
        found: dict[tuple[str, str], Table] = {}
        score, done = followed_score(self.model, self.settings.eot), self.first + len(self.images)
        source = partial(restart, self.model, self.settings.seed, "run", *self.place, done)
        for run in run_plan(plan, score, self.images, generator=source):
            for attack in run.budgets:
                check_budget(run.attack, attack, clean=self.images, attacked=run.images)
            distances = {each.__name__: _numbers(each(self.images, run.images)) for each in (linf, l2, psnr)}
            measured = self._scored(run.images, run.attack, **distances)
            for key in map(budget_key, run.budgets):
                found[run.attack, key] = measured.changed(budget=key)
        return Table.joined([found[name, budget_key(each)] for name, attacks in plan.items() for each in attacks])

    @torch.no_grad()
    def _scored(self, images: Tensor, attack: str = CLEAN, **more: Any) -> Table:
        """Return rows of clean or attacked images; behind a purifier with their quality, by the draws of the scores."""
        state, start = attack or CLEAN_STATE, time_on(images.device)
        seen = self.first + len(images) * (state != CLEAN_STATE)
        begin = partial(restart, self.model, self.settings.seed, "score", *self.place, seen, state)
        begin()
        scores: Tensor = self.model(images)
        if not bool(scores.isfinite().all()):
            bad = f"image {self.names[int((~scores.isfinite()).nonzero()[0])]!r} ({state})"
            told = f"{self.model.name} gives a score that is not finite for {bad}"
            raise ModelLoadError(f"{told}; check its weights and preprocessing")
        if attack == CLEAN:
            more["seconds"] = (time_on(images.device) - start) / len(images)
        if isinstance(self.model, Purified):
            begin()
            purified = self.model.purify(images, self.model.next_generator(images))
            more["quality"] = _numbers(quality_score(self.images, purified))
        return Table.of(len(scores), image=list(self.names), attack=attack, score=_numbers(scores), **more)


def _numbers(values: Tensor) -> list[float]:
    return values.double().tolist()
