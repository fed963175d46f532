"""An evaluation as a report, and in words how it was run and what its figures are."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources

from iqa_armor.report import evaluation_tables as tables
from iqa_armor.report.attack_figures import WORST, attacks_shown, purifications, reach
from iqa_armor.report.document import Gallery, ImageFile, Note, Panels, Part, Report, Section, Terms
from iqa_armor.report.evaluation_charts import curves, plane, ranking_curve, score_scatters, tradeoff
from iqa_armor.report.formatting import budget, listed, plain, row_name, signed
from iqa_armor.report.verdicts import verdict
from iqa_armor.results.figure_registry import FIGURES
from iqa_armor.results.outcome import DataEntry, Outcome, Picture
from iqa_armor.results.table import Table

NAMES_IN_TITLE = 3
MOST_UNFOLDED = 6  # models whose differences lie open
SAID = tomllib.loads(resources.files("iqa_armor.report").joinpath("evaluation.toml").read_text("utf-8"))
NOTES: Mapping[str, str] = SAID["notes"]


def evaluation_report(outcome: Outcome, table: Table | None = None, pictures: Sequence[Picture] = ()) -> Report:
    """Return all that is shown of an evaluation, of scores of single images where there is a table of them."""
    names = [model.name for model in outcome.compared]
    models = ", ".join(names) if len(names) <= NAMES_IN_TITLE else f"{len(names)} models"
    others = [f" against {model.name}" for model in outcome.models if model.name not in names]
    facts, sections = Terms(tuple(_facts(outcome))), _sections(outcome, table, pictures)
    title, shown = f"Robustness of {models}{''.join(others)}", tuple(each for each in sections if each.parts)
    return Report(title, facts, shown, "outcome", outcome.to_json(indent=None), verdict(outcome))


def _sections(outcome: Outcome, table: Table | None, pictures: Sequence[Picture]) -> Iterator[Section]:
    says = f"{reach(outcome)} {NOTES['gains']}{NOTES['worst_case'] if WORST in attacks_shown(outcome) else ''}"
    main = (tables.models_table(outcome), tables.attacks_table(outcome), Note(says))
    yield _section("Figures", *main, tables.seeds_table(outcome), tables.datasets_table(outcome))
    differences = tables.differences_table(outcome)
    count = len(differences.groups)
    summary = f"Differences of {count} models" * (count > MOST_UNFOLDED)
    yield _section("Against the baseline", differences, summary=summary)
    has_hollow = any(model.threat == "bare" for model in outcome.models)
    note, note_of_lines = (NOTES["hollow"].format(lines) * has_hollow for lines in ("", " and broken lines"))
    turned = Panels(ranking_curve(outcome), "Low-rated images pushed up, high-rated ones down", note=note_of_lines)
    yield _section("The ranking under attack", turned)
    gains = Panels(curves(outcome, "abs_gain"), "How far the attack moves scores", note=note_of_lines)
    told = "" if gains.charts else note_of_lines
    rankings = Panels(curves(outcome, "srocc"), "How well attacked scores still agree with opinion", note=told)
    yield _section("Over the budget", gains, rankings)
    yield _section("Quality and robustness", Panels(tradeoff(outcome), note=note))
    yield _section("Purifiers", tables.purifiers_table(outcome), plane(outcome))
    if table is not None:
        yield _section("Scores before and after", score_scatters(outcome, table))
    shown, count = len({picture.model for picture in pictures}), len(outcome.models)
    some = Note(f"Of {shown} of {count} models.") if 0 < shown < count else None
    yield _section("Images that moved most", some, *map(_picture, pictures))
    checks = tables.checks_table(outcome)
    unchecked = None if checks.groups else Note(NOTES["unchecked"], "plain")
    yield _section("Strength of the attacks", checks, unchecked, Note(NOTES["strength"]))
    summary = "Table of all figures by model, attack and budget"
    yield _section("Every budget", tables.budgets_table(outcome), is_detail=True, summary=summary)
    defined = tuple(_definitions(has_purifiers=bool(purifications(outcome))))
    yield _section("What the figures are", Terms(defined, is_prose=True), is_detail=True)
    yield _section("Settings, data, versions", Terms(tuple(_conditions(outcome))), is_detail=True)


def _section(title: str, *parts: Part | None, is_detail: bool = False, summary: str = "") -> Section:
    # A table without rows says nothing, nor do panels without charts.
    filled = (part for part in parts if part is not None and getattr(part, "groups", getattr(part, "charts", True)))
    return Section(title, tuple(filled), is_detail, summary)


def _picture(shown: Picture) -> Gallery:
    before, after, gain = plain(shown.clean_score), plain(shown.attacked_score), signed(shown.gain)
    name, model, attack = shown.name, shown.model, f"{shown.attack} at {budget(shown.budget)}"
    moved = f"{model} scores it {after} instead of {before}, a change of {gain} of its score range"
    enlarged = f"What {attack} changed in {name}, 20 times enlarged around mid-grey; it moved the score"
    images = (
        ImageFile(shown.clean, f"{name}, clean: {model} scores it {before}", "clean"),
        ImageFile(shown.attacked, f"{name} under {attack}: {moved}", "attacked"),
        ImageFile(shown.difference, f"{enlarged} from {before} to {after}", "change × 20"),
    )
    return Gallery(name, f"{model}, {attack}: score {before} → {after}, {gain} of the score range", images)


def _facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    term, defended = "Model" if len(outcome.models) == 1 else "Models", dict[str, dict[str, None]]()
    for model in outcome.models:
        if model.threat is None:
            yield term, row_name(outcome, model) + f" – {model.arch}" * bool(model.arch)
        else:
            defended.setdefault(model.defends, {})[model.defense] = None
    yield from ((term, f"{name} behind {', '.join(defenses)}") for name, defenses in defended.items())
    yield from (("Data", _data_line(entry)) for entry in outcome.data)


def _definitions(*, has_purifiers: bool) -> Iterator[tuple[str, str]]:
    """Yield what the figures are by their names: what evaluation.toml says, and else what their registry does."""
    defined = SAID["figures"]
    told = " ".join(defined)
    others = {each.label: f"{each.says[0].upper()}{each.says[1:]}." for each in FIGURES if each.label not in told}
    for name, says in (defined | others).items():
        if has_purifiers or not re.search("[Pp]urifi", f"{name} {says}"):
            yield name, says


def _data_line(entry: DataEntry) -> str:
    scores = "" if entry.has_scores else ", no opinion scores"
    return f"{entry.spec}: {entry.images} {entry.split} images{scores}, weight {entry.weight:g}"


def _conditions(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Yield settings, data and versions as names with values, all that repeats the evaluation."""
    settings = outcome.settings
    for name, values in settings.attacks.items():
        yield f"Attack {name}", listed(values) or "its defaults"
    yield "Budgets ε", f"{', '.join(f'{epsilon:g}' for epsilon in settings.epsilons)} (lengths in 1/255)"
    ways = {1: "attacks raise scores", -1: "attacks lower scores", "rank": "attacks turn the ranking round"}
    yield "Direction", ways[settings.direction]
    if settings.ranking != "none":
        yield "Ranking", f"{settings.ranking}, ε = {', '.join(settings.ranking_keys())}"
    yield "Batches", f"{settings.batch_size} images on {settings.device}, seed {settings.seed}"
    yield "Limit", "none" if settings.limit is None else f"{settings.limit} images of each dataset"
    yield "Intervals", f"{settings.resamples} resamples, {settings.confidence * 100:g} %"
    for entry in outcome.data:
        size = ", images at their own size" if entry.keeps_size else ""
        yield "Data", f"{_data_line(entry)}{size}, fingerprint {entry.fingerprint}"
    if any(model.threat == "adaptive" for model in outcome.models):
        yield "Random defenses", f"adaptive attacks average over draws (EOT): {settings.eot}"
    names = {model.name for model in outcome.models}
    for model in outcome.models:
        if model.defends not in names:  # else it has the scale of that
            scale, better = model.scale, "higher" if model.scale.higher_is_better else "lower"
            limits = f"{plain(scale.low)} to {plain(scale.high)}, {better} is better"
            yield f"Score range of {model.name}", f"{limits} ({scale.source})"
    yield "Versions", ", ".join(f"{name} {version}" for name, version in outcome.versions.items()) or "not recorded"
