"""Every attack at every budget, fitted where it has something to learn first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from iqa_armor.attacks.base import Attack, Batches, Fitted, frozen
from iqa_armor.attacks.budgets import at_budgets, budget_key
from iqa_armor.attacks.plan import Plan
from iqa_armor.data.base import Dataset
from iqa_armor.data.prepared import batches, load_prepared, to_float
from iqa_armor.evaluation.randomness import generator_for, reseed
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.threats import attacked_model, followed_score
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent


@dataclass(frozen=True)
class AttackPlans:
    """The attacks of an evaluation, learned when they are first asked for: once per attacked model and budget.

    Attacks that learn do so on training images of the first dataset that has any, else on the images that are
    reported, which favours the attacker; each budget is learned by itself.

    Models are on the device while they are attacked.
    """

    datasets: Sequence[Dataset]
    settings: EvaluationSettings
    device: torch.device
    progress: Progress = silent
    _learned: dict[tuple[QualityModel, str], tuple[Attack, ...]] = field(default_factory=dict)

    def of(self, model: QualityModel) -> Plan:
        """Return the attacks on a model by name, one per budget; it is on the device and frozen meanwhile."""
        return {name: self.budgets(model, name) for name in self.settings.named_attacks()}

    def budgets(self, model: QualityModel, name: str) -> tuple[Attack, ...]:
        """Return one attack on a model at every budget, as `of` does."""
        attack = self.settings.named_attacks()[name]
        budgets = at_budgets(attack, self.settings.epsilons)
        if not isinstance(attack, Fitted):
            return budgets
        place = attacked_model(model), name  # attacks unaware of defenses are those on the bare model
        if place not in self._learned:
            self._learned[place] = self._learn(model, name, budgets)
        return self._learned[place]

    def _learn(self, model: QualityModel, name: str, budgets: Sequence[Attack]) -> tuple[Attack, ...]:
        seen, seed = self._images(model), self.settings.seed
        score, learned = followed_score(model, self.settings.eot), []
        task = f"evaluating {model.name} on training images (learning {name})"
        with frozen(model):
            for each in budgets:
                purpose = "fit", name, budget_key(each)
                reseed(model, seed, *purpose)
                learned.append(each.fit(score, seen, generator_for(seed, self.device, *purpose)))  # type: ignore[attr-defined]
                self.progress(task, len(learned), len(budgets))
        return tuple(learned)

    def _images(self, model: QualityModel) -> Batches:
        whole = next((each for each in self.datasets if len(each.splits.get("training", ()))), None)
        dataset = whole or self.datasets[0]
        images = whole.splits["training"] if whole else dataset.reported()[1]
        prepare = to_float if dataset.keeps_size else model.prepare
        prepared = load_prepared(images.limit(self.settings.fit_images), prepare)

        def passes() -> Iterator[Tensor]:
            return (pixels.to(self.device) for pixels, _, _ in batches(prepared, self.settings.batch_size))

        return passes
