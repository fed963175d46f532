"""An evaluation for those who know no figures: bars of text, and two sentences."""

from collections.abc import Iterator

from iqa_armor.report.comparison import RANKED_AT
from iqa_armor.report.formatting import budget, short
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

HALF = 22  # columns of the terminal for an SROCC of 1, and as many for -1


def ranking_bars(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of a plot of SROCC, clean and where each image is attacked to turn the ranking round."""
    names = max(len(model.name) for model in outcome.models)
    yield f"{'':{names + 9}}{'turned round':<{HALF}}0{'as people rank':>{HALF}}"
    for key in ("", *outcome.models[0].worst_case_srocc):
        for place, model in enumerate(outcome.models):
            value = _ranked(model, key)
            columns = round(HALF * abs(value))
            left, right = ("█" * columns if is_here else "" for is_here in (value < 0, value >= 0))
            heading = "" if place else budget(key) if key else "clean"
            yield f"{heading:8} {model.name:{names}}{left:>{HALF}}│{right:<{HALF}} {short(value)}"


def in_plain_words(outcome: Outcome) -> Iterator[str]:
    """Yield what an attack nobody sees does to the first and the last model, and what the difference cost."""
    first, last = outcome.models[0], outcome.models[-1]
    falls = (f"{model.name} from {short(model.srocc)} to {short(_ranked(model, RANKED_AT))}" for model in (first, last))
    yield (
        f"A change of every pixel by at most {budget(RANKED_AT)}, which nobody sees, takes the ranking by "
        f"{' and that by '.join(falls)} (1: as people rank, 0: chance, below 0: turned round)."
    )
    cost = (first.srocc or 0) - (last.srocc or 0)
    yield f"On images that nobody changed, {last.name} ranks {'worse' if cost > 0 else 'better'} by {short(abs(cost))}."


def _ranked(model: ModelEntry, key: str) -> float:
    return (model.worst_case_srocc[key] if key else model.srocc) or 0.0
