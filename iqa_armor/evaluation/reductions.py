"""Figures as reductions of the table: of the images themselves, and of resamples of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iqa_armor.evaluation.settings import RANKING, EvaluationSettings
from iqa_armor.metrics.correlation import order_codes, plcc, plcc_logistic, srocc
from iqa_armor.metrics.robustness import abs_gain, abs_gain_std, abs_gain_unsigned, auc, gain_score, r_score
from iqa_armor.results.figure_registry import Figure, declared
from iqa_armor.results.figures import Scale
from iqa_armor.results.table import CLEAN, Column, Table

Nested = dict[str, Any]  # tensors (R,) by the names of results.figures.DatasetFigures


@dataclass(frozen=True)
class Sample:
    """Images of one dataset, as one model scored them, drawn R times; figures are None where nothing was measured."""

    table: Table  # rows of the images in some state: attacked in one way, or clean
    clean: Table  # rows of the same images clean
    scale: Scale
    rows: Tensor  # numbers of the images of each draw, (R, N)

    @cached_property
    def scores(self) -> tuple[Tensor, Tensor]:
        """Scores of the clean images and of those in this state, (R, N) each."""
        return self._drawn(self.clean, "score"), self._drawn(self.table, "score")

    @cached_property
    def along(self) -> tuple[Tensor, Tensor]:
        """Scores of the clean images and of those in this state, as if every attack went upwards that has a way."""
        clean, attacked = self.scores
        return clean, clean + self._drawn(self.table, "way").nan_to_num(1.0) * (attacked - clean)

    def column(self, name: str) -> Tensor | None:
        return None if np.isnan(self.table[name]).all() else self._drawn(self.table, name)

    def mean(self, name: str) -> Tensor | None:
        values = self.column(name)
        return None if values is None else values.mean(-1)

    def agreement(self, metric: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
        """Return how scores, higher for better images, agree with opinion."""
        mos = self.column("mos")
        return None if mos is None else metric(self._sign * self.scores[1], mos)

    def srocc(self) -> Tensor | None:
        return None if self.column("mos") is None else self._sign * self.rank_correlation(self.table["mos"])

    def rank_correlation(self, other: Column) -> Tensor:
        """Return the rank correlation of scores in this state with another column (N,)."""
        return srocc(*(order_codes(torch.from_numpy(each))[self.rows] for each in (self.table["score"], other)))

    def gain_score(self) -> Tensor | None:
        """Return the change from the scores without a purifier."""
        if np.isnan(self.clean["undefended"]).all():
            return None
        both = (self._drawn(self.clean, "undefended"), self.scores[1])
        return gain_score(*((scores - self.scale.low) / self.scale.width for scores in both)).mean(-1)

    def largest_change(self) -> Tensor | None:
        """Return the largest change of a pixel in 1/255."""
        changes = self.column("linf")
        return None if changes is None else changes.amax(-1) * 255

    def deviation(self) -> Tensor:
        scores = self.scores[1]
        return scores.std(-1) if scores.shape[-1] > 1 else scores.new_full(scores.shape[:-1], torch.nan)

    @property
    def _sign(self) -> int:
        return 1 if self.scale.higher_is_better else -1

    def _drawn(self, table: Table, name: str) -> Tensor:
        return torch.from_numpy(table[name])[self.rows]


# How every figure of `iqa_armor.results.figures` is computed, under its name.
REDUCTIONS: dict[str, Callable[[Sample], Tensor | None]] = {
    "srocc": Sample.srocc,
    "plcc": lambda sample: sample.agreement(plcc),
    "plcc_logistic": lambda sample: sample.agreement(lambda scores, mos: plcc_logistic(scores[0], mos[0])[None]),
    "clean_quality": lambda sample: sample.mean("quality"),
    "clean_gain_score": Sample.gain_score,
    "clean_mean": lambda sample: sample.mean("score"),
    "clean_std": Sample.deviation,
    "worst_case_srocc": Sample.srocc,
    "rank_kept": lambda sample: sample.rank_correlation(sample.clean["score"]),
    "abs_gain": lambda sample: abs_gain(*sample.along, sample.scale.width),
    "abs_gain_unsigned": lambda sample: abs_gain_unsigned(*sample.scores, sample.scale.width),
    "abs_gain_std": lambda sample: abs_gain_std(*sample.along),
    "r_score": lambda sample: r_score(*sample.scores, low=sample.scale.low, high=sample.scale.high),
    "quality": lambda sample: sample.mean("quality"),
    "gain_score": Sample.gain_score,
    "max_linf": Sample.largest_change,
    "psnr": lambda sample: sample.mean("psnr"),
}


@dataclass(frozen=True)
class Reduction:
    """The rows of one model on one dataset, the range of its scores, and the figures that they are reduced to."""

    table: Table
    scale: Scale
    settings: EvaluationSettings

    @cached_property
    def clean(self) -> Table:
        return self.table.where(attack=CLEAN)

    @cached_property
    def states(self) -> dict[str, dict[str, Table]]:
        """Rows of the attacked images, by attack and budget."""
        budgets = self.settings.budgets()
        rows = {name: self.table.where(attack=name) for name in budgets}
        return {name: {key: rows[name].where(budget=key) for key in keys} for name, keys in budgets.items()}

    @cached_property
    def worst(self) -> dict[str, Table]:
        """By budget, the images with the farthest of their scores under the swept attacks, if there are two."""
        states = [self.states[name] for name in self.settings.swept()]
        if len(states) < 2 or self.settings.direction == "rank":
            return {}
        farthest = np.maximum if self.settings.sign > 0 else np.minimum
        worst = {key: farthest.reduce([state[key]["score"] for state in states]) for key in states[0]}
        return {key: Table.of(len(s), score=s, mos=self.clean["mos"]) for key, s in worst.items()}

    def figures(self, draws: Tensor | None = None) -> Nested:
        """Return figures by the names of `results.figures.DatasetFigures`, (R,) each; R is 1 for the images themselves.

        Of `draws`, the numbers of the images of each resample (R, N), only figures that are compared are given.
        """
        rows = torch.arange(len(self.clean))[None] if draws is None else draws
        chosen = [each for each in declared("clean", "data", "attacked", "ranked") if draws is None or each.compared]
        ranked, kept = ([each for each in chosen if each.of == kind] for kind in ("ranked", "attacked"))

        def reduced(states: Mapping[str, Table], kept: Sequence[Figure] = kept) -> Nested:
            samples = {key: Sample(state, self.clean, self.scale, rows) for key, state in states.items()}
            return _by_budget(kept, samples, is_resampled=draws is not None)

        clean = Sample(self.clean, self.clean, self.scale, rows)
        values = {each.name: REDUCTIONS[each.name](clean) for each in chosen if each.of in ("clean", "data")}
        found: Nested = {name: value for name, value in values.items() if value is not None}
        rows_of = self.table.where(attack=RANKING)
        found |= reduced({key: rows_of.where(budget=key) for key in self.settings.ranking_keys()}, ranked)
        found["attacks"] = {name: reduced(states) for name, states in self.states.items()}
        return found | ({"worst_case": reduced(self.worst)} if self.worst else {})


def _by_budget(figures: Sequence[Figure], samples: Mapping[str, Sample], *, is_resampled: bool) -> Nested:
    """Return the figures of an attack by budget, and the areas of those that have one; of resamples the compared."""
    epsilons = [float(key) for key in samples] if len(samples) > 1 else [0.0]  # one budget may have a name, no size
    found: Nested = {}
    for figure in figures:
        each = {key: REDUCTIONS[figure.name](sample) for key, sample in samples.items()}
        values = {key: value for key, value in each.items() if value is not None}
        if values and (not is_resampled or "value" in figure.compared):
            found[figure.name] = values
        if values and figure.has_area and (not is_resampled or "area" in figure.compared):
            stacked = torch.stack(list(values.values()), -1)
            found[figure.area] = stacked.mean(-1) if figure.of == "ranked" else auc(stacked, epsilons)
    return found
