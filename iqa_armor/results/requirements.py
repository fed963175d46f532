"""Requirements on an outcome, `srocc_drop <= 0.01`; and one outcome of several that differ in their seeds."""

import contextlib
import difflib
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from operator import eq, ge, gt, le, lt, ne
from typing import Any, NamedTuple

from iqa_armor.errors import UsageError
from iqa_armor.results.figure_registry import Figure, declared
from iqa_armor.results.figures import Interval, ModelEntry, Scale
from iqa_armor.results.outcome import Outcome, Settings

OPERATORS: dict[str, Callable[[float, float], bool]] = {"<=": le, ">=": ge, "==": eq, "!=": ne, "<": lt, ">": gt}
_EXPRESSION = re.compile(r"\s*(.+?)\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*")


class Requirement(NamedTuple):
    """A path inside a model's entry, an operator and a number."""

    path: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.path} {self.operator} {self.bound:g}"


def parse_requirement(text: str) -> Requirement:
    """Return the requirement written as `PATH OPERATOR NUMBER`; a UsageError refuses any other text."""
    match = _EXPRESSION.fullmatch(text)
    with contextlib.suppress(ValueError):
        if match is not None and not math.isnan(bound := float(match[3])):
            return Requirement(match[1], match[2], bound)
    way = f"write PATH OPERATOR NUMBER with one of {' '.join(OPERATORS)}, such as 'srocc_drop <= 0.01'"
    raise UsageError(f"cannot read the requirement {text!r}; {way}")


def unmet(requirement: Requirement, outcome: Outcome) -> dict[str, str]:
    """Return in words, by name, by how much models other than a baseline miss a requirement; a null always does."""
    require_path(requirement, outcome.settings, [entry.spec for entry in outcome.data])
    holds, failures = OPERATORS[requirement.operator], dict[str, str]()
    for model in outcome.compared:
        value = flattened(model.model_dump()).get(requirement.path)
        if value is None:
            failures[model.name] = f"{model.name}: {requirement} fails, the value is not defined"
        elif not holds(value, requirement.bound):
            excess = f"{abs(value - requirement.bound):.4g}, the value is {value:.4g}"
            failures[model.name] = f"{model.name}: {requirement} fails by {excess}"
    return failures


def require_path(requirement: Requirement, settings: Settings, datasets: Sequence[str]) -> None:
    """Refuse a path that no evaluation with such settings can fill; the UsageError names the nearest there is."""
    paths = known_paths(settings.keys(), datasets, settings.ranking_keys())
    if requirement.path not in paths:
        nearest = difflib.get_close_matches(requirement.path, paths, n=1, cutoff=0.0)
        raise UsageError(f"no figure is called {requirement.path!r}; did you mean {nearest[0]!r}?")


def known_paths(budgets: Mapping[str, Sequence[str]], datasets: Sequence[str], ranks: Sequence[str] = ()) -> list[str]:
    """Return the dotted path of every number that a model's entry can hold."""

    def by_budget(value: Any, figures: Sequence[Figure]) -> dict[str, Any]:
        attacks = {attack: {f.name: dict.fromkeys(keys, value) for f in figures} for attack, keys in budgets.items()}
        longest = max(budgets, key=lambda attack: len(budgets[attack]), default="")
        ranked = {f.name: dict.fromkeys(ranks, value) for f in declared("ranked") if value is None or f.compared}
        return {"attacks": attacks, **ranked} | ({"worst_case": attacks[longest]} if len(budgets) > 1 else {})

    figures = by_budget(None, declared("attacked"))
    differences = by_budget(Interval(), [figure for figure in declared("attacked") if "value" in figure.compared])
    by_dataset = {spec: {"images": 0, **figures} for spec in datasets}
    beside = {"datasets": by_dataset, "ratio_to_baseline": figures, "difference_to_baseline": differences}
    entry = {"name": "", "parameters": 0, "scale": Scale(low=0, high=1), **beside, **figures}
    return list(flattened(ModelEntry.model_validate(entry).model_dump()))


def flattened(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """Return the numbers and nulls of nested figures by dotted path."""
    found: dict[str, float | None] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{key}.")
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            found[f"{prefix}{key}"] = value
    return found


def mean_and_spread(runs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return nested figures as means over runs, null where any is, and their standard deviations (n - 1) by path."""
    flat = [flattened(each) for each in runs]
    values = {path: [each[path] for each in flat] for path in flat[0]}
    known = {path: [each for each in found if each is not None] for path, found in values.items()}
    spread = {path: statistics.stdev(found) for path, found in known.items() if len(found) == len(runs)}
    return {key: _mean([each[key] for each in runs]) for key in runs[0]}, spread


def over_seeds(outcomes: Sequence[Outcome]) -> Outcome:
    """Return an outcome of means, a lone one as it is; of strength checks those stand that fail most often."""
    first = outcomes[0]
    if len(outcomes) == 1:
        return first
    runs = zip(*([model.model_dump() for model in outcome.models] for outcome in outcomes), strict=True)
    models, spread = zip(*map(mean_and_spread, runs), strict=True)
    by_model = {model["name"]: found for model, found in zip(models, spread, strict=True)}
    seeds = [outcome.settings.seed for outcome in outcomes]
    return Outcome.model_validate({**first.model_dump(), "models": models, "seeds": seeds, "spread": by_model})


def _mean(values: Sequence[Any]) -> Any:
    first = values[0]
    if None in values:
        return None
    if isinstance(first, dict):
        return {key: _mean([each[key] for each in values]) for key in first}
    if isinstance(first, tuple):
        return max(values, key=lambda checks: sum(check["status"] == "failed" for check in checks))
    return statistics.fmean(values) if isinstance(first, float) else first
