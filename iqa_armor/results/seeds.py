"""One outcome of several that differ in their seeds: the mean of every figure, and its spread."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from iqa_armor.results.outcome import Outcome
from iqa_armor.results.requirements import flattened


def mean_and_spread(runs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return nested figures as means over runs, null where any is, and their standard deviations (n - 1) by path."""
    flat = [flattened(each) for each in runs]
    values = {path: [each[path] for each in flat] for path in flat[0]}
    known = {path: [each for each in found if each is not None] for path, found in values.items()}
    spread = {path: statistics.stdev(found) for path, found in known.items() if len(found) == len(runs)}
    return {key: _mean([each[key] for each in runs]) for key in runs[0]}, spread


def over_seeds(outcomes: Sequence[Outcome]) -> Outcome:
    """Return an outcome of means, those of the ends of intervals as well; a lone one as it is.

    Of strength checks those stand that fail most often; what is said of the data is that of the first.
    """
    first, *others = outcomes
    if not others:
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
