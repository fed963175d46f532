"""Charts of an evaluation and of single scores."""

import itertools
import math
from collections.abc import Mapping
from statistics import fmean

from iqa_armor.report import attack_figures
from iqa_armor.report.attack_figures import OVERALL, WORST, area, attacks_shown, figures_of, has_own_budget, headline
from iqa_armor.report.document import Chart, Mark, Panels, Series
from iqa_armor.report.formatting import GREY, brief, budget, defense_label, model_labels, model_marks, short
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome
from iqa_armor.results.table import CLEAN as UNATTACKED
from iqa_armor.results.table import Table

CLEAN, ATTACKED = Mark(GREY, "o", "●"), Mark("#b84300", "o", "●")
POINTS_PER_PANEL, POINTS_PER_PAGE = 300, 2400
PANELS = 12  # of scores before and after
Lines = Mapping[str, Mapping[float, float]]  # a figure by budget, by model


def curves(outcome: Outcome, figure: str) -> tuple[Chart, ...]:
    """Return a panel per attack that was swept over budgets, with one vertical axis: a figure, a line per model."""
    word, found = {"abs_gain": "AbsGain", "srocc": "SROCC"}[figure], dict[str, dict[str, dict[float, float]]]()
    for attack in attacks_shown(outcome):
        if lines := {model.name: line for model in outcome.models if (line := _line(model, attack, figure))}:
            found[f"{word} {'in the' if attack == WORST else 'under'} {attack}"] = lines
    values = [v for lines in found.values() for line in lines.values() for v in line.values() if math.isfinite(v)]
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    margin = 0.05 * (high - low or 1.0)
    limits = (low - margin if low < 0 else 0.0, high + margin)
    return tuple(_over_budget(outcome, lines, title, word, limits=limits) for title, lines in found.items())


def ranking_curve(outcome: Outcome) -> tuple[Chart, ...]:
    """Return SROCC over the budget of the attack on the ranking, a line per model, from the clean one at 0."""
    ranked = [(model.name, model.srocc, _numbers(model.worst_case_srocc)) for model in outcome.models]
    lines = {name: {0.0: srocc} | line for name, srocc, line in ranked if srocc is not None and line}
    return (_over_budget(outcome, lines, "Worst-case SROCC", "SROCC", limits=(-1.0, 1.0), spare=1),) if lines else ()


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
    axes = (f"{figure} (nearer 0 is more robust)", "SROCC, clean")
    series = tuple(Series(((gain, srocc),), marks[name], labels[name]) for name, gain, srocc in points)
    return (Chart(f"SROCC over {figure} under {attack}", f"{told}.", axes, series),)


def plane(outcome: Outcome) -> Panels:
    """Return the gain-quality plane, if there were attacks: a point per purifier and threat, of one purifier joined.

    Source: [AP] Gushchin et al., arXiv:2404.06957.
    """
    marks, series, told = model_marks(outcome), [], []
    for entries in attack_figures.purifications(outcome):
        points = []
        for model in entries:
            x, y = (attack_figures.at_shown_budget(outcome, model, name, OVERALL) for name in ("gain_score", "quality"))
            points += [(model, (x, y))] if x is not None and y is not None else []
        label = defense_label(outcome, entries[0])
        if points:
            figures = ((short(x), short(y), attack_figures.THREATS[model.threat]) for model, (x, y) in points)
            parts = (f"gain score {x} and quality {y} under an {threat} attack" for x, y, threat in figures)
            told.append(f"{label}: {', '.join(parts)}")
            series.append(Series(tuple(at for _, at in points), marks[entries[0].name], style="joined"))
        for model, at in points:
            series.append(Series((at,), marks[model.name], brief(label) if model is points[-1][0] else ""))
    axes = ("gain score (nearer 0 is more robust)", "quality")
    chart = Chart("Quality over gain score, overall", f"{'; '.join(told)}.", axes, tuple(series))
    note = "Top left is best. Filled: the attack knows the purifier. Hollow: it does not."
    return Panels((chart,) if series else (), "The gain–quality plane", note=note)


def score_scatters(outcome: Outcome, table: Table) -> Panels:
    """Return a panel per model and dataset: scores before and after the headline attack, over opinion if any."""
    attack, key = headline(outcome)
    found = []
    for model, entry in itertools.product(outcome.models, outcome.data):
        rows = table.where(model=model.name).where(dataset=entry.spec)
        clean, attacked = rows.where(attack=UNATTACKED), rows.where(attack=attack, budget=key)
        if len(clean) and len(attacked):
            found.append((model, entry.spec, (clean, attacked)))
    threats = (None, "adaptive", "bare")
    shown = sorted(found, key=lambda each: threats.index(each[0].threat))[:PANELS] if len(found) > PANELS else found
    most = min(POINTS_PER_PANEL, 1 + POINTS_PER_PAGE // (1 + len(shown)))
    hidden = len(found) - len(shown)
    note = "One dot per image, each model in its own units." + f" {hidden} more panels are left out." * bool(hidden)
    charts = tuple(_scatter(outcome, *each, most=most) for each in shown)
    return Panels(charts, legend=((CLEAN.color, "clean"), (ATTACKED.color, "attacked")), note=note)


def _over_budget(
    outcome: Outcome, lines: Lines, title: str, figure: str, *, limits: tuple[float, float], spare: float = 0
) -> Chart:
    """Return a line per model, without ticks at budgets between 0 and `spare`."""
    marks, labels = model_marks(outcome), model_labels(outcome)
    budgets = sorted({epsilon for line in lines.values() for epsilon in line})
    told = []
    for name, line in lines.items():
        words = (f"{short(None if math.isnan(v) else v)} {f'at {e:g}/255' if e else 'clean'}" for e, v in line.items())
        told.append(f"{name}: {', '.join(words)}")
    series = tuple(Series(tuple(line.items()), marks[n], labels[n], "line") for n, line in lines.items())
    ticks = {epsilon: f"{epsilon:g}" for epsilon in budgets if not 0 < epsilon < spare}
    return Chart(title, f"{'; '.join(told)}.", ("budget ε, in 1/255", figure), series, ticks, limits)


def _line(model: ModelEntry, attack: str, figure: str) -> dict[float, float]:
    """Return a figure by budget, SROCC from the clean one at 0 on, nan where not defined; nothing unless swept."""
    by_key: Mapping[str, float | None] = getattr(figures_of(model, attack), figure)
    values = _numbers(by_key)
    if len(values) < 2 or not any(map(math.isfinite, values.values())):
        return {}
    return {0.0: model.srocc} | values if figure == "srocc" and model.srocc is not None else values


def _numbers(by_key: Mapping[str, float | None]) -> dict[float, float]:
    return {float(key): math.nan if v is None else v for key, v in by_key.items() if key != "own"}


def _scatter(outcome: Outcome, model: ModelEntry, spec: str, tables: tuple[Table, Table], *, most: int) -> Chart:
    attack, key = headline(outcome)
    before, after = (table["score"].tolist() for table in tables)
    mos = tables[0]["mos"].tolist()
    has_opinion = not math.isnan(sum(mos))
    step = math.ceil(len(before) / most)
    drawn = list(zip(mos if has_opinion else before, before, after, strict=True))[::step]
    attacked = Series(tuple((x, a) for x, _, a in drawn), ATTACKED, style="dots")
    clean = Series(tuple((x, b) for x, b, _ in drawn), CLEAN, style="dots")
    rises = tuple(end for x, b, a in drawn for end in ((x, b), (x, a), (math.nan, math.nan)))
    told = [f"On {spec} the attack takes the mean score from {fmean(before):.4g} to {fmean(after):.4g}"]
    figures = model.datasets.get(spec)
    if figures and figures.srocc is not None:
        told.append(f"SROCC from {short(figures.srocc)} to {short(figures_of(figures, attack).srocc.get(key))}")
    drawing = f"{len(drawn)} of {len(before)} images are drawn" if step > 1 else f"{len(before)} images"
    title = f"{model.name}, {attack} at {budget(key)}" + f" on {spec}" * (len(outcome.data) > 1)
    axes = ("opinion (MOS)", "score") if has_opinion else ("score of the clean image", "score when attacked")
    series = (Series(rises, ATTACKED, style="segments"), clean, attacked) if has_opinion else (attacked,)
    return Chart(title, f"{', '.join(told)}; {drawing}.", axes, series, has_diagonal=not has_opinion)
