"""Charts of an evaluation and of single scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from iqa_armor.report.attack_figures import WORST, area, attacks_shown, figures_of, has_own_budget, headline
from iqa_armor.report.document import Chart, Mark, Series
from iqa_armor.report.formatting import budget, is_number, short
from iqa_armor.report.model_marks import GREY, model_labels, model_marks
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome
from iqa_armor.results.table import CLEAN as UNATTACKED
from iqa_armor.results.table import Table

CLEAN, ATTACKED = Mark(GREY, "o", "●"), Mark("#b84300", "o", "●")
POINTS_PER_PANEL, POINTS_PER_PAGE = 300, 2400
PANELS = 12  # of scores before and after
Swept = Literal["abs_gain", "srocc"]
TITLES: Mapping[Swept, str] = {"abs_gain": "AbsGain", "srocc": "SROCC"}
ByBudget = dict[float, float]


@dataclass(frozen=True)
class ScoredImages:
    """The images of one dataset as one model scores them, clean and under the headline attack."""

    model: str
    dataset: str
    attack: str
    budget: str
    mos: tuple[float, ...] | None
    clean: tuple[float, ...]
    attacked: tuple[float, ...]


def curves(outcome: Outcome, figure: Swept) -> tuple[Chart, ...]:
    """Return a panel per attack that was swept over budgets: a figure over the budget, a line per model.

    All panels share their vertical axis. Attacks at one budget, and those of which nothing is defined, have none.
    SROCC starts at budget 0 with that of the clean images.
    """
    found = {
        attack: {model.name: line for model in outcome.models if (line := _line(model, attack, figure))}
        for attack in attacks_shown(outcome)
    }
    panels = {attack: lines for attack, lines in found.items() if lines}
    values = [v for lines in panels.values() for line in lines.values() for v in line.values() if math.isfinite(v)]
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    margin = 0.05 * (high - low or 1.0)
    limits = (low - margin if low < 0 else 0.0, high + margin)
    return tuple(_curves(outcome, attack, lines, figure=figure, limits=limits) for attack, lines in panels.items())


def tradeoff(outcome: Outcome) -> tuple[Chart, ...]:
    """Return quality over robustness, a point per model; nothing where fewer than two models have both.

    Source: [RA] Meleshin et al., arXiv:2506.04951, Figure 3; the axes are AbsGainAUC of the headline attack and SROCC.
    """
    attack, _ = headline(outcome)
    found = ((m.name, area(figures_of(m, attack), "abs_gain"), m.srocc) for m in outcome.models)
    points = [(name, gain, srocc) for name, gain, srocc in found if gain is not None and srocc is not None]
    if len(points) < 2:
        return ()
    marks, labels = model_marks(outcome), model_labels(outcome)
    figure = "AbsGain" if has_own_budget(outcome, attack) else "AbsGainAUC"
    told = "; ".join(f"{name}: {figure} {short(gain)}, SROCC {short(srocc)}" for name, gain, srocc in points)
    chart = Chart(
        title=f"SROCC over {figure} under {attack}",
        description=f"{told}.",
        axes=(f"{figure} (nearer 0 is more robust)", "SROCC, clean"),
        series=tuple(Series(((gain, srocc),), marks[name], labels[name]) for name, gain, srocc in points),
    )
    return (chart,)


def scored_images(outcome: Outcome, table: Table) -> list[ScoredImages]:
    """Return every dataset as every model scores it, clean and under the headline attack."""
    attack, key = headline(outcome)
    found = []
    for model in outcome.models:
        of_model = table.where(model=model.name)
        for entry in outcome.data:
            rows = of_model.where(dataset=entry.spec)
            clean, attacked = rows.where(attack=UNATTACKED), rows.where(attack=attack, budget=key)
            mos = None if math.isnan(clean["mos"].sum()) else tuple(clean["mos"].tolist())
            if len(clean) and len(attacked):
                scores = tuple(clean["score"].tolist()), tuple(attacked["score"].tolist())
                found.append(ScoredImages(model.name, entry.spec, attack, key, mos, *scores))
    return found


def score_scatters(outcome: Outcome, points: Sequence[ScoredImages]) -> tuple[Chart, ...]:
    """Return a panel per model and dataset: scores before and after, over opinion where there is any.

    Of many panels those of bare models come first, then those under attacks that know the defense, and `PANELS` are
    drawn. Without opinion the score after the attack stands over the one before. Of many images every k-th is drawn.
    """
    place = {model.name: (None, "adaptive", "bare").index(model.threat) for model in outcome.models}
    shown = sorted(points, key=lambda part: place[part.model])[:PANELS] if len(points) > PANELS else points
    most = min(POINTS_PER_PANEL, 1 + POINTS_PER_PAGE // (1 + len(shown)))
    return tuple(_scatter(outcome, part, most=most) for part in shown)


def _line(model: ModelEntry, attack: str, figure: Swept) -> ByBudget:
    """Return a figure by budget, nan where it is not defined; nothing unless there are budgets with a value."""
    by_key: Mapping[str, float | None] = getattr(figures_of(model, attack), figure)
    values = {float(key): math.nan if v is None else v for key, v in by_key.items() if is_number(key)}
    if len(values) < 2 or not any(map(math.isfinite, values.values())):
        return {}
    return {0.0: model.srocc} | values if figure == "srocc" and model.srocc is not None else values


def _curves(
    outcome: Outcome, attack: str, lines: Mapping[str, ByBudget], *, figure: Swept, limits: tuple[float, float]
) -> Chart:
    marks, labels = model_marks(outcome), model_labels(outcome)
    told = "; ".join(f"{name}: {_told(line)}" for name, line in lines.items())
    return Chart(
        title=f"{TITLES[figure]} {'in the' if attack == WORST else 'under'} {attack}",
        description=f"{told}.",
        axes=("budget ε, in 1/255", TITLES[figure]),
        series=tuple(Series(tuple(line.items()), marks[n], labels[n], "line") for n, line in lines.items()),
        ticks={tick: f"{tick:g}" for tick in sorted({epsilon for line in lines.values() for epsilon in line})},
        limits=limits,
    )


def _told(line: ByBudget) -> str:
    words = ((short(v if math.isfinite(v) else None), f"at {e:g}/255" if e else "clean") for e, v in line.items())
    return ", ".join(" ".join(word) for word in words)


def _scatter(outcome: Outcome, part: ScoredImages, *, most: int) -> Chart:
    step = math.ceil(len(part.clean) / most)
    before, after = part.clean[::step], part.attacked[::step]
    across = before if part.mos is None else part.mos[::step]
    attacked = Series(tuple(zip(across, after, strict=True)), ATTACKED, style="dots")
    clean = Series(tuple(zip(across, before, strict=True)), CLEAN, style="dots")
    rises = tuple(
        end for x, b, a in zip(across, before, after, strict=True) for end in ((x, b), (x, a), (math.nan, math.nan))
    )
    where = f" on {part.dataset}" if len(outcome.data) > 1 else ""
    has_opinion = part.mos is not None
    return Chart(
        title=f"{part.model}, {part.attack} at {budget(part.budget)}{where}",
        description=_told_scores(outcome, part, drawn=len(before)),
        axes=("opinion (MOS)", "score") if has_opinion else ("score of the clean image", "score when attacked"),
        series=(Series(rises, ATTACKED, style="segments"), clean, attacked) if has_opinion else (attacked,),
        has_diagonal=not has_opinion,
    )


def _told_scores(outcome: Outcome, part: ScoredImages, *, drawn: int) -> str:
    count = len(part.clean)
    means = f"{sum(part.clean) / count:.4g} to {sum(part.attacked) / count:.4g}"
    words = [f"On {part.dataset} the attack takes the mean score from {means}"]
    model = next((model for model in outcome.models if model.name == part.model), None)
    figures = model and model.datasets.get(part.dataset)
    if figures and figures.srocc is not None:
        under = figures_of(figures, part.attack).srocc.get(part.budget)
        words.append(f"SROCC from {short(figures.srocc)} to {short(under)}")
    drawing = f"{count} images" if drawn == count else f"{drawn} of {count} images are drawn"
    return f"{', '.join(words)}; {drawing}."
