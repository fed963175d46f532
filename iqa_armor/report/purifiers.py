"""What purifiers do to images and scores: their table, and the gain-quality plane."""

from collections.abc import Iterator, Mapping, Sequence

from iqa_armor.report.attack_figures import figures_of, headline, shown_budget, starred
from iqa_armor.report.document import Cell, Chart, Column, Panels, Row, Rows, Series, Table, number_columns, row
from iqa_armor.report.formatting import DOWN, UP, brief, budget, defense_label, model_marks, sentences, short
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

OVERALL = "overall"
THREATS: Mapping[str | None, str] = {"bare": "unaware", "adaptive": "adaptive"}
SIDE_BY_SIDE = 2  # attacks; of more of them the headline's stands beside the mean of all


def purifications(outcome: Outcome) -> list[list[ModelEntry]]:
    """Return every model behind every purifier in the outcome's order, attacks that do not know it first."""
    found: dict[tuple[str, str], list[ModelEntry]] = {(each.defends, each.defense): [] for each in outcome.models}
    for model in sorted(outcome.models, key=lambda model: model.threat == "adaptive"):
        is_purified = model.clean_quality is not None or any(each.quality for each in model.attacks.values())
        found[model.defends, model.defense] += [model] * (model.threat is not None and is_purified)
    return [entries for entries in found.values() if entries]


def purifiers_table(outcome: Outcome) -> Table:
    """Return a group of rows per model and purifier, a row per threat."""
    names, (attack, key) = _columns(outcome), headline(outcome)
    attacks = {name: starred(outcome, name) for name in outcome.settings.attacks}

    def both(group: str) -> tuple[Column, Column]:
        return Column("before", group, spare=2), Column("after", group)

    def each_attack(group: str) -> Iterator[Column]:
        return (Column(attacks.get(name, name), group, spare=int(name != names[-1])) for name in names)

    columns = (
        Column("Purifier", kind="text"),
        *number_columns((f"Clean quality{UP}", f"Clean gain{DOWN}")),
        *both(f"Clean SROCC{UP}"),
        Column("Attack", kind="text"),
        *(*each_attack(f"Quality{UP}"), *each_attack(f"Gain score{DOWN}")),
        *both(f"SROCC, {attack}, {budget(key)}{UP}"),
    )
    groups = tuple(Rows(tuple(_rows(outcome, each))) for each in purifications(outcome))
    shared = sorted({shown_budget(outcome, name) for name, shown in attacks.items() if shown == name})
    where = [f"at {budget(key)}" for key in shared]
    where += ["at its own budget where starred"] if any(shown != name for name, shown in attacks.items()) else []
    told = {"attacks": attacks, "where": where, "eot": outcome.settings.eot, "side_by_side": SIDE_BY_SIDE}
    return Table("Images and scores behind purifiers", columns, groups, sentences("purifiers.jinja", told))


def plane(outcome: Outcome) -> Panels:
    """Return the gain-quality plane, if there were attacks: a point per purifier and threat, of one purifier joined.

    Source: [AP] Gushchin et al., arXiv:2404.06957.
    """
    marks, series, told = model_marks(outcome), [], []
    for entries in purifications(outcome):
        points = []
        for model in entries:
            x, y = (_at_shown_budget(outcome, model, name, OVERALL) for name in ("gain_score", "quality"))
            points += [(model, (x, y))] if x is not None and y is not None else []
        label = defense_label(outcome, entries[0])
        if points:
            figures = ((short(x), short(y), THREATS[model.threat]) for model, (x, y) in points)
            parts = (f"gain score {x} and quality {y} under an {threat} attack" for x, y, threat in figures)
            told.append(f"{label}: {', '.join(parts)}")
            series.append(Series(tuple(at for _, at in points), marks[entries[0].name], style="joined"))
        for model, at in points:
            series.append(Series((at,), marks[model.name], brief(label) if model is points[-1][0] else ""))
    axes = ("gain score (nearer 0 is more robust)", "quality")
    chart = Chart("Quality over gain score, overall", f"{'; '.join(told)}.", axes, tuple(series))
    note = "Top left is best. Filled: the attack knows the purifier. Hollow: it does not."
    return Panels((chart,) if series else (), "The gain–quality plane", note=note)


def _columns(outcome: Outcome) -> list[str]:
    """Return the attacks whose figures stand side by side, and `OVERALL` where more than one was run."""
    attacks = list(outcome.settings.attacks)
    named = attacks if len(attacks) <= SIDE_BY_SIDE else [headline(outcome)[0]]
    return [*named, OVERALL] if len(attacks) > 1 else named


def _rows(outcome: Outcome, entries: Sequence[ModelEntry]) -> Iterator[Row]:
    attack, key = headline(outcome)
    names, last = _columns(outcome), entries[-1]
    bare = next((model for model in outcome.models if model.name == last.defends and model.threat is None), None)
    named = Cell(defense_label(outcome, last), "strong", model_marks(outcome)[last.name])
    clean = (last.clean_quality, last.clean_gain_score, bare.srocc if bare else None, last.srocc)
    for place, model in enumerate(entries):
        first = (None,) * (1 + len(clean)) if place else row(named, *map(short, clean))
        quality = (short(_at_shown_budget(outcome, model, "quality", name)) for name in names)
        gain = (short(_at_shown_budget(outcome, model, "gain_score", name)) for name in names)
        under = (short(figures_of(entry, attack).srocc.get(key) if entry else None) for entry in (bare, model))
        yield (*first, *row(THREATS[model.threat], *quality, *gain, *under))


def _at_shown_budget(outcome: Outcome, model: ModelEntry, name: str, column: str) -> float | None:
    """Return a figure under an attack at its shown budget, or the mean over all attacks if all have it.

    Source: [AP] Gushchin et al., arXiv:2404.06957; one budget per attack and equal weights are (ours).
    """
    attacks = list(outcome.settings.attacks) if column == OVERALL else [column]
    by_budget = [getattr(figures_of(model, attack), name).get(shown_budget(outcome, attack)) for attack in attacks]
    values: list[float] = [value for value in by_budget if value is not None]
    return sum(values) / len(values) if values and len(values) == len(attacks) else None
