"""Charts of an outcome and of single scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from iqa_armor.report.drawing import INK, Chart, Label, label_right, make_room, panel, to_chart
from iqa_armor.report.looks import GREY, Look, labels, looks
from iqa_armor.report.notation import budget, is_number, short
from iqa_armor.report.reading import WORST, area, attacks_shown, figures_of, has_own_budget, headline
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome
from iqa_armor.results.table import CLEAN as CLEAN_ROWS
from iqa_armor.results.table import Table as ScoreTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLEAN, ATTACKED = GREY, "#b84300"
POINTS_PER_PANEL, POINTS_PER_PAGE = 300, 2400
PANELS = 12  # of scores before and after
Swept = Literal["abs_gain", "srocc"]
TITLES: Mapping[Swept, str] = {"abs_gain": "AbsGain", "srocc": "SROCC"}


@dataclass(frozen=True)
class _Points:
    """Scores of one model on one dataset before and after one attack, one entry per image; mos may be None."""

    model: str
    dataset: str
    attack: str
    budget: str
    mos: list[float] | None
    clean: list[float]
    attacked: list[float]


@dataclass(frozen=True)
class _Line:
    """One model over the budgets, at least one of which has a value; nan where a figure is not defined."""

    model: ModelEntry
    epsilons: list[float]
    values: list[float]

    @property
    def last(self) -> tuple[float, float]:
        """The last budget with a defined value, and that value."""
        return [(e, v) for e, v in zip(self.epsilons, self.values, strict=True) if math.isfinite(v)][-1]


def curves(outcome: Outcome, figure: Swept) -> list[Chart]:
    """Return a panel per attack that was swept over budgets: a figure over the budget, a line per model.

    All panels share their vertical axis. Attacks at one budget, and those of which nothing is defined, have none.
    SROCC starts at budget 0 with that of the clean images.
    """
    found = {
        attack: [line for model in outcome.models if (line := _line(model, attack, figure))]
        for attack in attacks_shown(outcome)
    }
    panels = {attack: lines for attack, lines in found.items() if lines}
    values = [v for lines in panels.values() for line in lines for v in line.values if math.isfinite(v)]
    if not values:
        return []
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.05 * (high - low or 1.0)
    limits = (low - margin if low < 0 else 0.0, high + margin)
    return [_curves(outcome, attack, lines, figure=figure, limits=limits) for attack, lines in panels.items()]


def tradeoff(outcome: Outcome) -> Chart | None:
    """Return quality over robustness, a point per model; None where fewer than two models have both.

    Source: [RA] Meleshin et al., arXiv:2506.04951, Figure 3; the axes are AbsGainAUC of the headline attack and SROCC.
    """
    attack, _ = headline(outcome)
    found = [(m, area(figures_of(m, attack), "abs_gain"), m.srocc) for m in outcome.models]
    points = [(m, gain, srocc) for m, gain, srocc in found if gain is not None and srocc is not None]
    if len(points) < 2:
        return None
    styles, texts = looks(outcome), labels(outcome)
    name = "AbsGain" if has_own_budget(outcome, attack) else "AbsGainAUC"
    with panel("tradeoff", labels=len(points)) as (figure, axes):
        beside = [Label(texts[m.name], gain, srocc, styles[m.name].color) for m, gain, srocc in points]
        make_room(axes, beside)
        for model, gain, srocc in points:
            look = styles[model.name]
            axes.plot([gain], [srocc], look.marker, color=look.color, markerfacecolor=look.face, markersize=7)
        axes.margins(0.15, 0.15)
        axes.autoscale_view()
        axes.set_xlabel(f"{name} (nearer 0 is more robust)")
        axes.set_ylabel("SROCC, clean")
        label_right(axes, beside)
        told = "; ".join(f"{m.name}: {name} {short(gain)}, SROCC {short(srocc)}" for m, gain, srocc in points)
        return to_chart(figure, title=f"SROCC over {name} under {attack}", description=f"{told}.")


def scattered(outcome: Outcome, table: ScoreTable | None) -> list[_Points]:
    """Return what the panels of `score_scatters` could show: every model on every dataset under the headline attack."""
    if table is None:
        return []
    attack, key = headline(outcome)
    found = []
    for model in outcome.models:
        rows = table.where(model=model.name)
        for spec in (entry.spec for entry in outcome.data):
            clean, attacked = (
                rows.where(dataset=spec, attack=a, budget=b) for a, b in ((CLEAN_ROWS,) * 2, (attack, key))
            )
            mos = None if math.isnan(clean["mos"].sum()) else clean["mos"].tolist()
            scores = clean["score"].tolist(), attacked["score"].tolist()
            found += [_Points(model.name, spec, attack, key, mos, *scores)] if scores[0] and scores[1] else []
    return found


def score_scatters(outcome: Outcome, points: Sequence[_Points]) -> list[Chart]:
    """Return a panel per model and dataset: scores before and after the attack, over opinion where there is any.

    Of many panels those of bare models come first, then those under attacks that know the defense, and `PANELS` are
    drawn. Without opinion the score after the attack stands over the one before. Of many images every k-th is drawn.
    """
    place = {model.name: (None, "adaptive", "bare").index(model.threat) for model in outcome.models}
    shown = sorted(points, key=lambda part: place.get(part.model, 0))[:PANELS] if len(points) > PANELS else points
    most = min(POINTS_PER_PANEL, 1 + POINTS_PER_PAGE // (1 + len(shown)))
    return [_scatter(outcome, part, most=most, identifier=f"scores{i}") for i, part in enumerate(shown)]


def _line(model: ModelEntry, attack: str, figure: Swept) -> _Line | None:
    by_key: Mapping[str, float | None] = getattr(figures_of(model, attack), figure)
    values = {float(key): math.nan if v is None else v for key, v in by_key.items() if is_number(key)}
    if len(values) < 2 or not any(map(math.isfinite, values.values())):
        return None
    if figure == "srocc" and model.srocc is not None:
        values = {0.0: model.srocc} | values
    return _Line(model, list(values), list(values.values()))


def _curves(
    outcome: Outcome, attack: str, lines: Sequence[_Line], *, figure: Swept, limits: tuple[float, float]
) -> Chart:
    styles, texts = looks(outcome), labels(outcome)
    with panel(f"{figure} {attack}", labels=len(lines)) as (canvas, axes):
        beside = [Label(texts[line.model.name], *line.last, styles[line.model.name].color) for line in lines]
        make_room(axes, beside)
        for line in lines:
            _draw(axes, line, styles[line.model.name])
        if limits[0] < 0:
            axes.axhline(0, color=INK, linewidth=0.8)
        ticks = sorted({epsilon for line in lines for epsilon in line.epsilons})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.grid(visible=False, axis="x")
        axes.set_ylim(*limits)
        axes.set_xlabel("budget ε, in 1/255")
        axes.set_ylabel(TITLES[figure])
        label_right(axes, beside)
        title = f"{TITLES[figure]} {'in the' if attack == WORST else 'under'} {attack}"
        told = "; ".join(f"{line.model.name}: {_told(line)}" for line in lines)
        return to_chart(canvas, title=title, description=f"{told}.")


def _draw(axes: Axes, line: _Line, look: Look) -> None:
    axes.plot(
        line.epsilons,
        line.values,
        color=look.color,
        linestyle="--" if look.is_hollow else "-",
        linewidth=1.2 if look.is_hollow else 1.6,
        marker=look.marker,
        markerfacecolor=look.face,
        markersize=4.5,
    )


def _told(line: _Line) -> str:
    pairs = zip(line.epsilons, line.values, strict=True)
    words = ((short(v if math.isfinite(v) else None), f"at {e:g}/255" if e else "clean") for e, v in pairs)
    return ", ".join(" ".join(word) for word in words)


def _scatter(outcome: Outcome, part: _Points, *, most: int, identifier: str) -> Chart:
    step = math.ceil(len(part.clean) / most)
    before, after = part.clean[::step], part.attacked[::step]
    across = before if part.mos is None else part.mos[::step]
    with panel(identifier) as (figure, axes):
        if part.mos is None:
            axes.axline((before[0], before[0]), slope=1, color=GREY, linewidth=0.8)
            axes.set_xlabel("score of the clean image")
            axes.set_ylabel("score when attacked")
        else:
            rises = [(x, x, math.nan) for x in across], [(b, a, math.nan) for b, a in zip(before, after, strict=True)]
            axes.plot(*map(_flat, rises), color=ATTACKED, linewidth=0.6, alpha=0.35)
            _dots(axes, across, before, color=CLEAN)
            axes.set_xlabel("opinion (MOS)")
            axes.set_ylabel("score")
        _dots(axes, across, after, color=ATTACKED)
        axes.margins(0.04, 0.06)
        where = f" on {part.dataset}" if len(outcome.data) > 1 else ""
        title = f"{part.model}, {part.attack} at {budget(part.budget)}{where}"
        return to_chart(figure, title=title, description=_told_scores(outcome, part, drawn=len(before)))


def _dots(axes: Axes, across: Sequence[float], up: Sequence[float], *, color: str) -> None:
    # Segments of no length with round ends are dots, and one path of them is a fifth of as many markers.
    xs, ys = _flat([(x, x, math.nan) for x in across]), _flat([(y, y, math.nan) for y in up])
    axes.plot(xs, ys, color=color, linewidth=4, solid_capstyle="round", alpha=0.85)


def _flat(parts: Sequence[Sequence[float]]) -> list[float]:
    return [value for part in parts for value in part]


def _told_scores(outcome: Outcome, part: _Points, *, drawn: int) -> str:
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
