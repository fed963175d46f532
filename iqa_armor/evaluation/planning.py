"""Every attack at every budget, fitted where it has something to learn first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, Batches, Fitted, frozen
from iqa_armor.attacks.budgets import at_budgets, budget_key
from iqa_armor.attacks.plan import Plan
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.prepared import batches, load_prepared, to_float
from iqa_armor.defenses.base import Defended
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.surface import surface_of
from iqa_armor.models.base import QualityModel


def plan_attacks(
    model: QualityModel,
    datasets: Sequence[Dataset],
    settings: EvaluationSettings,
    *,
    on_fit: Callable[[str, int, int], None] | None = None,
) -> Plan:
    """Return the attacks of an evaluation by name, one per budget, ready to be run on any batch.

    Attacks that learn do so on training images of the first dataset that has any, else on the images that are
    reported, which favours the attacker; each budget is learned by itself.

    Args:
        model: On the settings' device; frozen meanwhile.
        datasets: At least one.
        settings: Attacks, budgets, seed, number of images to learn from.
        on_fit: Called with (attack, budgets learned, budgets in all).
    """
    planned: dict[str, tuple[Attack, ...]] = {}
    surface = surface_of(model, settings.eot)
    seen: Batches | None = None
    for name, attack in settings.build_attacks().items():
        budgets = at_budgets(attack, settings.epsilons)
        if not isinstance(attack, Fitted):
            planned[name] = budgets
            continue
        seen = seen or _fitting_batches(model, datasets, settings)
        learned: list[Attack] = []
        with frozen(model):
            for each in budgets:
                generator = generator_for(settings, "fit", name, budget_key(each))
                reseed(model, settings, "fit", name, budget_key(each))
                learned.append(each.fit(surface, seen, generator))  # type: ignore[attr-defined]
                if on_fit is not None:
                    on_fit(name, len(learned), len(budgets))
        planned[name] = tuple(learned)
    return planned


def generator_for(settings: EvaluationSettings, *purpose: object) -> Generator:
    """Return randomness of its own for a purpose: what else is drawn, or in which order, does not matter."""
    words = "\n".join(map(str, (settings.seed, *purpose)))
    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")
    return Generator(device=settings.device).manual_seed(seed)


def reseed(model: QualityModel, settings: EvaluationSettings, *purpose: object) -> None:
    """Let what a defense draws from now on follow from the purpose alone."""
    if isinstance(model, Defended):
        model.reseed(generator_for(settings, "defense", *purpose).initial_seed())


def _fitting_batches(model: QualityModel, datasets: Sequence[Dataset], settings: EvaluationSettings) -> Batches:
    dataset, images = _fitting_images(datasets)
    chosen = images.limit(settings.fit_images)
    prepared = load_prepared(chosen, to_float if dataset.keeps_size else model.prepare)

    def passes() -> Iterator[Tensor]:
        return (pixels.to(settings.device) for pixels, _, _ in batches(prepared, settings.batch_size))

    return passes


def _fitting_images(datasets: Sequence[Dataset]) -> tuple[Dataset, ImageSet]:
    for dataset in datasets:
        images = dataset.splits.get("training")
        if images is not None and len(images):
            return dataset, images
    return datasets[0], datasets[0].reported()[1]
