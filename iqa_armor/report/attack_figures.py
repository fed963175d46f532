"""Which attacks and budgets a report shows, their figures, and those of models beside the baseline."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from iqa_armor.report.formatting import NORMS, budget
from iqa_armor.results.figure_registry import Figure, declared
from iqa_armor.results.figures import AttackDifferences, AttackFigures, Differences, Figures, Interval, ModelEntry
from iqa_armor.results.outcome import Outcome

HEADLINE_ATTACK, HEADLINE_EPSILON = "pgd8", "4"
WORST, OVERALL = "worst case", "overall"
THREATS: Mapping[str | None, str] = {"bare": "unaware", "adaptive": "adaptive"}  # to a purified model
Reading = Literal["better", "worse", "not separable", "not defined"]
RANKED_AT = "1"  # budget of the attack on the ranking that is spoken of, in 1/255
Pair = tuple[ModelEntry, ModelEntry]


def headline(outcome: Outcome) -> tuple[str, str]:
    """Return attack and budget of one-line summaries: PGD-8 at 4/255 where run, else the last one at shared budgets."""
    attacks = list(outcome.settings.attacks)
    shared = [name for name in attacks if not has_own_budget(outcome, name)]
    attack = HEADLINE_ATTACK if HEADLINE_ATTACK in attacks or not attacks else (shared or attacks)[-1]
    return attack, shown_budget(outcome, attack)


def shown_budget(outcome: Outcome, attack: str) -> str:
    """Return the key of the one budget of an attack that is shown: 4/255 where run, else its middle one."""
    keys = _budgets(outcome, attack)
    return HEADLINE_EPSILON if HEADLINE_EPSILON in keys or not keys else keys[len(keys) // 2]


def has_own_budget(outcome: Outcome, attack: str) -> bool:
    """Return whether an attack was run at one budget of its own instead of the evaluation's."""
    keys = _budgets(outcome, attack)
    return len(keys) == 1 and keys != [f"{epsilon:g}" for epsilon in outcome.settings.epsilons]


def figures_of(figures: Figures, attack: str) -> AttackFigures:
    """Return the figures of an attack, or of `WORST`; blank ones where it was not run."""
    if attack == WORST:
        return figures.worst_case or AttackFigures()
    return figures.attacks.get(attack, AttackFigures())


def area(figures: AttackFigures, name: str, *, over_all: bool = False) -> float | None:
    """Return the mean of a figure over `distinct` budgets, of one the figure there; or `over_all` as [RA] has it."""
    keys = list(figures.abs_gain) if over_all else distinct(figures)
    values: list[float | None] = [getattr(figures, name).get(key) for key in keys]
    if len(values) == 1:
        return values[0]
    if len(keys) == len(figures.abs_gain) or None in values:
        found: float | None = getattr(figures, f"{name}_auc")
        return found
    points = [(float(key), value or 0.0) for key, value in zip(keys, values, strict=True)]
    pieces = ((right - left) * (low + high) / 2 for (left, low), (right, high) in pairwise(points))
    return sum(pieces) / (points[-1][0] - points[0][0])


def distinct(figures: AttackFigures) -> list[str]:
    """Return the budgets up to the one beyond which an attack moves no pixel and no score farther (ours)."""
    keys = list(figures.abs_gain)

    def same(key: str) -> bool:
        pairs = ((each.get(key), each.get(keys[-1])) for each in (figures.max_linf, figures.abs_gain))
        return all(a is not None and b is not None and math.isclose(a, b, abs_tol=1e-3) for a, b in pairs)

    end = next((place for place, key in enumerate(keys) if same(key)), len(keys) - 1)
    return keys[: end + 1]


def saturation_note(outcome: Outcome) -> tuple[str, ...]:
    spent = {}
    for name in outcome.settings.attacks:
        runs = [found for model in outcome.models if (found := figures_of(model, name)).abs_gain]
        if any(len(distinct(found)) < len(found.abs_gain) for found in runs):
            spent[name] = max(map(distinct, runs), key=len)[-1]
    listed = ", ".join(f"{name} beyond ε = {key}" for name, key in spent.items())
    says = (
        f"A larger budget changes nothing for {listed} /255: its steps reach no farther. Equal budgets count once; the "
        "paper's mean over all of them is abs_gain_auc in the JSON."
    )
    return (says,) if spent else ()


def attacks_shown(outcome: Outcome) -> list[str]:
    """Return the attacks, and behind them `WORST` where any model has it."""
    worst = [WORST] if any(model.worst_case is not None for model in outcome.models) else []
    return [*outcome.settings.attacks, *worst]


def starred(outcome: Outcome, attack: str) -> str:
    return f"{attack}*" if has_own_budget(outcome, attack) else attack


def star_note(outcome: Outcome) -> tuple[str, ...]:
    """Return what the mark of `starred` means, where anything is marked."""
    is_marked = any(has_own_budget(outcome, name) for name in outcome.settings.attacks)
    return ("* Run at one budget of its own: the figure there, no mean over ε.",) if is_marked else ()


def reach(outcome: Outcome) -> str:
    settings = outcome.settings
    if not settings.attacks:
        return "No attack was run."
    own = [name for name in settings.attacks if has_own_budget(outcome, name)]
    shared = settings.attacks.keys() - own
    verb = {1: "raise", -1: "lower", "rank": "turn the ranking of"}[settings.direction]
    budgets = ", ".join(f"{epsilon:g}" for epsilon in settings.epsilons)
    # Only attacks that are limited otherwise name their norm.
    norms = {str(settings.attacks[name].get("norm", "linf")) for name in shared}
    named = ", ".join(sorted(NORMS.get(norm, norm) for norm in norms))
    parts = [f"within ε = {budgets} /255 ({named})"] if shared else []
    parts += [f"{', '.join(own)} at one budget of {'its' if len(own) == 1 else 'their'} own"] if own else []
    return f"Attacks {verb} scores {'; '.join(parts)}."


def at_shown_budget(outcome: Outcome, model: ModelEntry, name: str, column: str) -> float | None:
    """Return a figure under an attack at its shown budget, or the mean over all attacks if all have it.

    Source: [AP] Gushchin et al., arXiv:2404.06957; one budget per attack and equal weights are (ours).
    """
    attacks = list(outcome.settings.attacks) if column == OVERALL else [column]
    by_budget = [getattr(figures_of(model, attack), name).get(shown_budget(outcome, attack)) for attack in attacks]
    values: list[float] = [value for value in by_budget if value is not None]
    return sum(values) / len(values) if values and len(values) == len(attacks) else None


def purifications(outcome: Outcome) -> list[list[ModelEntry]]:
    """Return every model behind every purifier in the outcome's order, attacks that do not know it first."""
    found: dict[tuple[str, str], list[ModelEntry]] = {(each.defends, each.defense): [] for each in outcome.models}
    for model in sorted(outcome.models, key=lambda model: model.threat == "adaptive"):
        is_purified = model.clean_quality is not None or any(each.quality for each in model.attacks.values())
        found[model.defends, model.defense] += [model] * (model.threat is not None and is_purified)
    return [entries for entries in found.values() if entries]


def _budgets(outcome: Outcome, attack: str) -> list[str]:
    runs = (figures_of(model, attack).abs_gain for model in outcome.models)
    return next((list(run) for run in runs if run), [f"{epsilon:g}" for epsilon in outcome.settings.epsilons])


@dataclass(frozen=True)
class Comparison:
    """One figure of a model beside the baseline's."""

    figure: str
    baseline: float | None
    value: float | None
    interval: Interval
    better: int  # +1 where more is better, -1 where less is
    ratio: float | None = None  # model ÷ baseline; None for figures without, and where the baseline is not positive

    @property
    def reading(self) -> Reading:
        """What the interval says; a figure is separable when its limits leave out zero."""
        if self.interval.low is None or self.interval.high is None:
            return "not defined"
        if self.interval.low <= 0 <= self.interval.high:
            return "not separable"
        return "better" if self.interval.low * self.better > 0 else "worse"


def compare(outcome: Outcome, model: ModelEntry) -> list[Comparison]:
    """Return the figures that model or baseline has: agreement, ranking under attack, gains, R-Scores."""
    base, difference = outcome.baseline_entry, model.difference_to_baseline
    if base is None or difference is None:
        return []
    found = difference.attacks | {WORST: difference.worst_case}
    parts = {name: part for name in attacks_shown(outcome) if (part := found.get(name)) is not None}
    rows = list(_ranked(base, model, difference))
    for name in (headline(outcome)[0], WORST):
        rows += _at_budget(outcome, (base, model), name, parts[name]) if name in parts else ()
    for name, part in parts.items():
        rows += _areas(outcome, (base, model), name, part)
    return [row for row in rows if row.baseline is not None or row.value is not None]


def _ranked(base: ModelEntry, model: ModelEntry, difference: Differences) -> Iterator[Comparison]:
    """Yield clean figures; and those of the attack on the ranking, at 1/255 where it was run and in the mean."""
    for figure in (each for each in declared("clean") if each.compared):
        before, after, found = (getattr(each, figure.name) for each in (base, model, difference))
        yield Comparison(figure.label, before, after, found, figure.better)
    for figure in (each for each in declared("ranked") if each.compared):
        if RANKED_AT in getattr(model, figure.name):
            before, after, found = (getattr(each, figure.name).get(RANKED_AT) for each in (base, model, difference))
            name = f"{figure.label} at {budget(RANKED_AT)}"
            yield Comparison(name, before, after, found or Interval(), figure.better)
        before, after, found = (getattr(each, figure.area) for each in (base, model, difference))
        yield Comparison(f"{figure.label}, mean over ε", before, after, found, figure.better)


def _at_budget(outcome: Outcome, pair: Pair, attack: str, part: AttackDifferences) -> Iterator[Comparison]:
    """Yield the figures that are compared at single budgets only, at the one that is shown."""
    at = shown_budget(outcome, attack)
    for figure in declared("attacked"):
        if figure.compared and "area" not in figure.compared:
            before, after = (getattr(figures_of(each, attack), figure.name).get(at) for each in pair)
            found, name = getattr(part, figure.name).get(at, Interval()), f"{figure.label}, {attack} at {budget(at)}"
            yield Comparison(name, before, after, found, _better(outcome, figure))


def _areas(outcome: Outcome, pair: Pair, attack: str, part: AttackDifferences) -> Iterator[Comparison]:
    """Yield the figures that are compared over all budgets; at the one budget where there is no other."""
    auc = "" if has_own_budget(outcome, attack) else "AUC"
    for figure in declared("attacked"):
        if "area" in figure.compared:
            before, after = (area(figures_of(each, attack), figure.name, over_all=True) for each in pair)
            found, alone = getattr(part, figure.area), getattr(part, figure.name, {})
            if found.value is None and len(alone) == 1:
                found = next(iter(alone.values()))
            ratio = after / before if figure.is_gain and after is not None and before and before > 0 else None
            name = f"{figure.label}{' ' * (' ' in figure.label and auc != '')}{auc} {attack}"
            yield Comparison(name, before, after, found, _better(outcome, figure), ratio)


def _better(outcome: Outcome, figure: Figure) -> int:
    # An attack downwards makes gains negative.
    return figure.better * (outcome.settings.sign if figure.is_gain else 1)
