"""An evaluation as a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iqa_armor.report.attack_figures import WORST, attacks_shown, reach
from iqa_armor.report.document import Gallery, ImageFile, Note, Panels, Part, Report, Section, Terms
from iqa_armor.report.evaluation_charts import curves, score_scatters, tradeoff
from iqa_armor.report.evaluation_tables import (
    attacks_table,
    budgets_table,
    checks_table,
    datasets_table,
    differences_table,
    models_table,
)
from iqa_armor.report.evaluation_terms import conditions, data_line, definitions
from iqa_armor.report.formatting import budget, plain, signed
from iqa_armor.report.model_marks import row_name
from iqa_armor.report.purifiers import plane, purifications, purifiers_table
from iqa_armor.report.verdicts import verdict
from iqa_armor.results.outcome import Outcome
from iqa_armor.results.pictures import Picture
from iqa_armor.results.table import Table

NAMES_IN_TITLE = 3
MOST_UNFOLDED = 6  # models whose differences lie open
EVERY_BUDGET = "Table of all figures by model, attack and budget"
HOLLOW = "Hollow marks{}, ○ in labels: the attack does not know the defense."


def evaluation_report(outcome: Outcome, table: Table | None = None, pictures: Sequence[Picture] = ()) -> Report:
    """Return all that is shown of an evaluation, of scores of single images where there is a table of them."""
    defined = definitions(has_purifiers=bool(purifications(outcome)))
    sections = (
        _figures(outcome),
        _differences(outcome),
        _over_budgets(outcome),
        _section("Quality and robustness", Panels(tradeoff(outcome), note=_threats(outcome))),
        _section("Purifiers", purifiers_table(outcome), plane(outcome)),
        _section("Scores before and after", score_scatters(outcome, table)) if table is not None else None,
        _pictures(outcome, pictures),
        _strength(outcome),
        _section("Every budget", budgets_table(outcome), is_detail=True, summary=EVERY_BUDGET),
        _section("What the figures are", Terms(defined, is_prose=True), is_detail=True),
        _section("Settings, data, versions", Terms(tuple(conditions(outcome))), is_detail=True),
    )
    return Report(
        title=f"Robustness of {_names(outcome)}",
        facts=Terms(tuple(_facts(outcome))),
        sections=tuple(section for section in sections if section is not None),
        kind="outcome",
        json=outcome.to_json(indent=None),
        verdict=verdict(outcome),
    )


def _section(title: str, *parts: Part | None, is_detail: bool = False, summary: str = "") -> Section | None:
    """Return a section of the parts that there are, if any."""
    kept = tuple(part for part in parts if part is not None and not (isinstance(part, Panels) and not part.charts))
    return Section(title, kept, is_detail, summary) if kept else None


def _figures(outcome: Outcome) -> Section | None:
    note = (
        f"{reach(outcome)} Gains are fractions of the model's own score range on clean training images; AUC is the "
        "mean over ε. SROCC under attack is the figure that no rescaling of scores can flatter."
    )
    if WORST in attacks_shown(outcome):
        note += " Worst case: for each image and budget the attack that moved the score farthest."
    return _section("Figures", models_table(outcome), attacks_table(outcome), Note(note), datasets_table(outcome))


def _differences(outcome: Outcome) -> Section | None:
    table = differences_table(outcome)
    count = len(table.groups) if table else 0
    summary = f"Differences of {count} models" if count > MOST_UNFOLDED else ""
    return _section("Against the baseline", table, summary=summary)


def _over_budgets(outcome: Outcome) -> Section | None:
    gains, rankings = curves(outcome, "abs_gain"), curves(outcome, "srocc")
    note = _threats(outcome, " and broken lines")
    return _section(
        "Over the budget",
        Panels(gains, "How far the attack moves scores", note=note),
        Panels(rankings, "How well attacked scores still agree with opinion", note="" if gains else note),
    )


def _threats(outcome: Outcome, marked: str = "") -> str:
    return HOLLOW.format(marked) if any(model.threat == "bare" for model in outcome.models) else ""


def _pictures(outcome: Outcome, pictures: Sequence[Picture]) -> Section | None:
    shown, count = len({picture.model for picture in pictures}), len(outcome.models)
    note = Note(f"Of {shown} of {count} models.") if 0 < shown < count else None
    return _section("Images that moved most", note, *map(_picture, pictures))


def _picture(shown: Picture) -> Gallery:
    before, after, gain = plain(shown.clean_score), plain(shown.attacked_score), signed(shown.gain)
    name, model, attack = shown.name, shown.model, f"{shown.attack} at {budget(shown.budget)}"
    moved = (
        f"{name} under {attack}: {model} scores it {after} instead of {before}, a change of {gain} of its score range"
    )
    enlarged = f"What {attack} changed in {name}, 20 times enlarged around mid-grey; it moved the score"
    images = (
        ImageFile(shown.clean, f"{name}, clean: {model} scores it {before}", "clean"),
        ImageFile(shown.attacked, moved, "attacked"),
        ImageFile(shown.difference, f"{enlarged} from {before} to {after}", "change × 20"),
    )
    return Gallery(name, f"{model}, {attack}: score {before} → {after}, {gain} of the score range", images)


def _strength(outcome: Outcome) -> Section | None:
    none = Note("No strength checks were made, so nothing here says whether a stronger attack would do more.", "plain")
    note = Note(
        "Small gains mean something only if the attacks were strong. A failed check says that they may not have been: "
        "then the figures of that model are too good."
    )
    return _section("Strength of the attacks", checks_table(outcome) or none, note)


def _names(outcome: Outcome) -> str:
    names = [model.name for model in outcome.compared]
    others = [model.name for model in outcome.models if model.name not in names]
    models = ", ".join(names) if len(names) <= NAMES_IN_TITLE else f"{len(names)} models"
    return models + (f" against {others[0]}" if others else "")


def _facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Yield the models, one line for all defenses of one, and the data."""
    term = "Model" if len(outcome.models) == 1 else "Models"
    defended = [model for model in outcome.models if model.threat is not None]
    for model in outcome.models:
        if model.threat is None:
            yield term, row_name(outcome, model) + f" – {model.arch}" * bool(model.arch)
    for name in dict.fromkeys(model.defends for model in defended):
        yield term, f"{name} behind {', '.join(dict.fromkeys(m.defense for m in defended if m.defends == name))}"
    for entry in outcome.data:
        yield "Data", data_line(entry)
