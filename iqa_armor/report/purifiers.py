"""What purifiers do to images and scores: their table, and the gain-quality plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from iqa_armor.report.attack_figures import figures_of, headline, shown_budget, starred, under_headline
from iqa_armor.report.document import Cell, Chart, Column, Row, Rows, Series, Table, number_columns, row
from iqa_armor.report.formatting import DOWN, UP, budget, short
from iqa_armor.report.model_marks import brief, defense_label, model_marks
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

Threat = Literal["bare", "adaptive"]
THREATS: Mapping[Threat, str] = {"bare": "unaware", "adaptive": "adaptive"}
OVERALL = "overall"
SIDE_BY_SIDE = 2  # attacks; of more of them the headline's stands beside the mean of all


@dataclass(frozen=True)
class Purification:
    """One model behind one chain of purifiers.

    Args:
        label: The defense, and the model where there are several.
        threats: The evaluated entries, unaware attacks first; at least one.
        bare: The model without a defense, or None where it was not evaluated.
    """

    label: str
    threats: Mapping[Threat, ModelEntry]
    bare: ModelEntry | None


def purifications(outcome: Outcome) -> list[Purification]:
    """Return every model behind every purifier, in the outcome's order."""
    found: dict[tuple[str, str], dict[Threat, ModelEntry]] = {}
    for model in outcome.models:
        is_purified = model.clean_quality is not None or any(each.quality for each in model.attacks.values())
        if model.threat is not None and is_purified:
            found.setdefault((model.defends, model.defense), {})[model.threat] = model
    bare = {model.name: model for model in outcome.models if model.threat is None}
    return [
        Purification(
            defense_label(outcome, next(iter(entries.values()))),
            {threat: entries[threat] for threat in THREATS if threat in entries},
            bare.get(defends),
        )
        for (defends, _), entries in found.items()
    ]


def purifiers_table(outcome: Outcome) -> Table | None:
    """Return a group of rows per model and purifier, a row per threat; None without purifiers."""
    found = purifications(outcome)
    if not found:
        return None
    names = _columns(outcome)
    spare = {name: int(name != names[-1]) for name in names}
    shown = {name: starred(outcome, name) if name != OVERALL else name for name in names}
    columns = [
        Column("Purifier", kind="text"),
        *number_columns((f"Clean quality{UP}", f"Clean gain{DOWN}")),
        *_before_and_after(f"Clean SROCC{UP}"),
        Column("Attack", kind="text"),
        *(Column(shown[name], f"Quality{UP}", spare=spare[name]) for name in names),
        *(Column(shown[name], f"Gain score{DOWN}", spare=spare[name]) for name in names),
        *_before_and_after(f"SROCC, {under_headline(outcome)}{UP}"),
    ]
    groups = tuple(Rows(tuple(_rows(outcome, each))) for each in found)
    return Table("Images and scores behind purifiers", tuple(columns), groups, tuple(_notes(outcome)))


def plane(outcome: Outcome) -> tuple[Chart, ...]:
    """Return the gain-quality plane: both overall, a point per purifier and threat, those of one purifier joined.

    Nothing where no purifier was attacked.

    Source: [AP] Gushchin et al., arXiv:2404.06957.
    """
    marks, series, told = model_marks(outcome), [], []
    for each in purifications(outcome):
        points = {model.name: at for model in each.threats.values() if (at := _point(outcome, model)) is not None}
        names = {model.name: f"under an {THREATS[threat]} attack" for threat, model in each.threats.items()}
        parts = (f"gain score {short(x)} and quality {short(y)} {names[name]}" for name, (x, y) in points.items())
        last = len(points) - 1
        if points:
            told.append(f"{each.label}: {', '.join(parts)}")
            series.append(Series(tuple(points.values()), marks[next(iter(names))], style="joined"))
        for place, (name, at) in enumerate(points.items()):
            series.append(Series((at,), marks[name], brief(each.label) if place == last else ""))
    if not series:
        return ()
    axes = ("gain score (nearer 0 is more robust)", "quality")
    return (Chart("Quality over gain score, overall", f"{'; '.join(told)}.", axes, tuple(series)),)


def _before_and_after(group: str) -> tuple[Column, Column]:
    return Column("before", group, spare=2), Column("after", group)


def _columns(outcome: Outcome) -> list[str]:
    """Return the attacks whose figures stand side by side, and `OVERALL` where more than one was run."""
    attacks = list(outcome.settings.attacks)
    named = attacks if len(attacks) <= SIDE_BY_SIDE else [headline(outcome)[0]]
    return [*named, OVERALL] if len(attacks) > 1 else named


def _rows(outcome: Outcome, each: Purification) -> Iterator[Row]:
    attack, key = headline(outcome)
    names = _columns(outcome)
    mark = model_marks(outcome)[list(each.threats.values())[-1].name]
    for place, (threat, model) in enumerate(each.threats.items()):
        clean = (model.clean_quality, model.clean_gain_score, each.bare.srocc if each.bare else None, model.srocc)
        first = row(Cell(each.label, "strong", mark), *map(short, clean))
        quality = (short(_at_shown_budget(outcome, model, "quality", name)) for name in names)
        gain = (short(_at_shown_budget(outcome, model, "gain_score", name)) for name in names)
        under = (short(figures_of(entry, attack).srocc.get(key) if entry else None) for entry in (each.bare, model))
        yield (*((None,) * len(first) if place else first), *row(THREATS[threat], *quality, *gain, *under))


def _point(outcome: Outcome, model: ModelEntry) -> tuple[float, float] | None:
    gain = _at_shown_budget(outcome, model, "gain_score", OVERALL)
    quality = _at_shown_budget(outcome, model, "quality", OVERALL)
    return None if gain is None or quality is None else (gain, quality)


def _at_shown_budget(
    outcome: Outcome, model: ModelEntry, name: Literal["quality", "gain_score"], column: str
) -> float | None:
    """Return a figure under an attack at its shown budget, or the mean over all attacks if all have it.

    Source: [AP] Gushchin et al., arXiv:2404.06957; one budget per attack and equal weights are (ours).
    """
    attacks = list(outcome.settings.attacks) if column == OVERALL else [column]
    by_budget = [getattr(figures_of(model, attack), name).get(shown_budget(outcome, attack)) for attack in attacks]
    values: list[float] = [value for value in by_budget if value is not None]
    return sum(values) / len(values) if values and len(values) == len(attacks) else None


def _notes(outcome: Outcome) -> Iterator[str]:
    """Yield what the figures of purifiers are and how to read them."""
    attacks = list(outcome.settings.attacks)
    shared = sorted({shown_budget(outcome, name) for name in attacks if starred(outcome, name) == name})
    where = [f"at {budget(key)}" for key in shared]
    where += ["at its own budget where starred"] if any(starred(outcome, name) != name for name in attacks) else []
    yield (
        f"Quality: (SSIM + PSNR/80)/2 of the purified image against the clean one, 1 is best. Gain score: change of "
        f"the score from that of the clean image without purifier, relative to it, 0 is best. Both are those "
        f"{', '.join(where)}. SROCC: before and after the purifier."
    )
    if len(attacks) > 1:
        yield f"Overall: mean over {', '.join(starred(outcome, name) for name in attacks)}, with equal weights."
    yield (
        "Unaware: the attack fools the model without purifier. Adaptive: it knows the purifier, goes through it and "
        f"averages a random one (draws: {outcome.settings.eot}); only this says what the purifier is worth."
    )
    if len(attacks) > SIDE_BY_SIDE:
        yield "Every attack is in the table of every budget."
