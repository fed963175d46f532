"""An evaluation as a report."""

from collections.abc import Iterator, Sequence

from iqa_armor.report.attack_figures import WORST, attacks_shown, reach
from iqa_armor.report.document import Gallery, ImageFile, Note, Panels, Part, Report, Section, Terms
from iqa_armor.report.evaluation_charts import curves, ranking_curve, score_scatters, tradeoff
from iqa_armor.report.evaluation_tables import (
    attacks_table,
    budgets_table,
    checks_table,
    datasets_table,
    differences_table,
    models_table,
    seeds_table,
)
from iqa_armor.report.evaluation_terms import conditions, data_line, definitions
from iqa_armor.report.formatting import budget, plain, signed
from iqa_armor.report.model_marks import row_name
from iqa_armor.report.purifiers import plane, purifications, purifiers_table
from iqa_armor.report.verdicts import verdict
from iqa_armor.results.outcome import Outcome, Picture
from iqa_armor.results.table import Table

NAMES_IN_TITLE = 3
MOST_UNFOLDED = 6  # models whose differences lie open
EVERY_BUDGET = "Table of all figures by model, attack and budget"
GAINS = (
    "Gains are fractions of the model's own score range on clean training images; AUC is the mean over ε. SROCC under "
    "attack does not see a shift that all images share; worst-case SROCC is under an attack that pushes images of low "
    "quality up and those of high quality down."
)
WORST_CASE = " Worst case: for each image and budget the attack that moved the score farthest."
UNCHECKED = "No strength checks were made, so nothing here says whether a stronger attack would do more."
STRENGTH = (
    "Small gains mean something only if the attacks were strong. A failed check says that they may not have been: then "
    "the figures of that model are too good."
)
HOLLOW = "Hollow marks{}, ○ in labels: the attack does not know the defense."


def evaluation_report(outcome: Outcome, table: Table | None = None, pictures: Sequence[Picture] = ()) -> Report:
    """Return all that is shown of an evaluation, of scores of single images where there is a table of them."""
    names = [model.name for model in outcome.compared]
    models = ", ".join(names) if len(names) <= NAMES_IN_TITLE else f"{len(names)} models"
    others = [f" against {model.name}" for model in outcome.models if model.name not in names]
    return Report(
        title=f"Robustness of {models}{''.join(others)}",
        facts=Terms(tuple(_facts(outcome))),
        sections=tuple(each for each in _sections(outcome, table, pictures) if each.parts),
        kind="outcome",
        json=outcome.to_json(indent=None),
        verdict=verdict(outcome),
    )


def _sections(outcome: Outcome, table: Table | None, pictures: Sequence[Picture]) -> Iterator[Section]:
    says = f"{reach(outcome)} {GAINS}{WORST_CASE if WORST in attacks_shown(outcome) else ''}"
    tables = models_table(outcome), attacks_table(outcome), Note(says), seeds_table(outcome), datasets_table(outcome)
    yield _section("Figures", *tables)
    differences = differences_table(outcome)
    count = len(differences.groups) if differences else 0
    summary = f"Differences of {count} models" if count > MOST_UNFOLDED else ""
    yield _section("Against the baseline", differences, summary=summary)
    has_hollow = any(model.threat == "bare" for model in outcome.models)
    note, note_of_lines = (HOLLOW.format(lines) * has_hollow for lines in ("", " and broken lines"))
    yield _section(
        "The ranking under attack",
        Panels(ranking_curve(outcome), "Low-rated images pushed up, high-rated ones down", note=note_of_lines),
    )
    gains, rankings = curves(outcome, "abs_gain"), curves(outcome, "srocc")
    yield _section(
        "Over the budget",
        Panels(gains, "How far the attack moves scores", note=note_of_lines),
        Panels(rankings, "How well attacked scores still agree with opinion", note="" if gains else note_of_lines),
    )
    yield _section("Quality and robustness", Panels(tradeoff(outcome), note=note))
    yield _section("Purifiers", purifiers_table(outcome), plane(outcome))
    if table is not None:
        yield _section("Scores before and after", score_scatters(outcome, table))
    shown, count = len({picture.model for picture in pictures}), len(outcome.models)
    some = Note(f"Of {shown} of {count} models.") if 0 < shown < count else None
    yield _section("Images that moved most", some, *map(_picture, pictures))
    yield _section("Strength of the attacks", checks_table(outcome) or Note(UNCHECKED, "plain"), Note(STRENGTH))
    yield _section("Every budget", budgets_table(outcome), is_detail=True, summary=EVERY_BUDGET)
    defined = definitions(has_purifiers=bool(purifications(outcome)))
    yield _section("What the figures are", Terms(defined, is_prose=True), is_detail=True)
    yield _section("Settings, data, versions", Terms(tuple(conditions(outcome))), is_detail=True)


def _section(title: str, *parts: Part | None, is_detail: bool = False, summary: str = "") -> Section:
    """Return a section of the parts that there are."""
    kept = (part for part in parts if part is not None and not (isinstance(part, Panels) and not part.charts))
    return Section(title, tuple(kept), is_detail, summary)


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
