"""An outcome as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from iqa_armor.report.charts import ATTACKED, CLEAN, curves, scattered, score_scatters, tradeoff
from iqa_armor.report.conditions import facts, reach
from iqa_armor.report.details import budgets_table, checks_table, datasets_table
from iqa_armor.report.notation import budget, listed, plain, signed
from iqa_armor.report.purified_page import plane, purifiers_table
from iqa_armor.report.reading import Standing, compare, failed_checks, standing
from iqa_armor.report.tables import attacks_table, differences_table, models_table
from iqa_armor.report.templates import inside_script, source, template
from iqa_armor.report.verdicts import caveats, conclusions
from iqa_armor.results.outcome import Outcome
from iqa_armor.results.pictures import Picture
from iqa_armor.results.table import Table as ScoreTable

STATES = {
    "caution": "Caution: a strength check failed, so these figures may be too good.",
    "better": "Better than the baseline where these images tell them apart.",
    "worse": "Worse than the baseline where these images tell them apart.",
    "mixed": "Better than the baseline in some figures, worse in others.",
    "open": "These images do not tell model and baseline apart.",
    "alone": "No baseline to compare with.",
}
WORDS: dict[Standing, str] = {
    "better": "better",
    "worse": "worse",
    "mixed": "better in some figures and worse in others",
    "open": "not separable",
}
NAMES_IN_TITLE = 3


@dataclass(frozen=True)
class _Image:
    """One image of the gallery; size is (width, height) in pixels."""

    source: str
    size: tuple[int, int]
    alt: str
    caption: str


@dataclass(frozen=True)
class _Item:
    """One attacked image of the gallery, as text."""

    name: str
    model: str
    attack: str
    before: str
    after: str
    gain: str
    images: tuple[_Image, ...]


def render_page(outcome: Outcome, table: ScoreTable | None = None, pictures: Sequence[Picture] = ()) -> str:
    """Return a report as the text of one HTML file that needs no other file and no network.

    The outcome's JSON stands in the element with the id `outcome`.

    Args:
        outcome: Figures of the models.
        table: Scores of the images, or None to show none.
        pictures: Images to show besides.
    """
    state, points = _state(outcome), scattered(outcome, table)
    scatters = score_scatters(outcome, points)
    return template("page.html").render(
        style=source("page.css"),
        title=f"Robustness of {_names(outcome)}",
        outcome=outcome,
        listing=list(_listing(outcome)),
        state=state,
        state_text=_state_text(outcome, state),
        failed=failed_checks(outcome),
        conclusions=[_colored(sentence) for sentence in conclusions(outcome)],
        caveats=caveats(outcome),
        budgets_note=reach(outcome),
        models=models_table(outcome),
        attacks=attacks_table(outcome),
        datasets=datasets_table(outcome),
        differences=differences_table(outcome),
        gains=curves(outcome, "abs_gain"),
        rankings=curves(outcome, "srocc"),
        tradeoff=tradeoff(outcome),
        has_threats=any(model.threat == "bare" for model in outcome.models),
        purifiers=purifiers_table(outcome),
        plane=plane(outcome),
        scatters=scatters,
        hidden_scatters=len(points) - len(scatters),
        colors=(CLEAN, ATTACKED),
        pictured=len({picture.model for picture in pictures}),
        gallery=[_item(picture) for picture in pictures],
        checks=checks_table(outcome),
        all_budgets=budgets_table(outcome),
        facts=list(facts(outcome)),
        listed=listed,
        json=inside_script(outcome.to_json(indent=None)),
    )


def _state(outcome: Outcome) -> str:
    if failed_checks(outcome):
        return "caution"
    if not any(compare(outcome, model) for model in outcome.compared):
        return "alone"
    standings = {standing(outcome, model) for model in outcome.compared}
    if {"better", "worse"} <= standings:
        return "mixed"
    return next(state for state in ("mixed", "better", "worse", "open") if state in standings)


def _state_text(outcome: Outcome, state: str) -> str:
    standings = [standing(outcome, model) for model in outcome.compared]
    if state in ("caution", "alone") or len(set(standings)) == 1:
        return STATES[state]
    counts = {WORDS[kind]: standings.count(kind) for kind in WORDS if kind in standings}
    return f"{len(standings)} models against the baseline: {', '.join(f'{n} {word}' for word, n in counts.items())}."


def _names(outcome: Outcome) -> str:
    names = [model.name for model in outcome.compared]
    others = [model.name for model in outcome.models if model.name not in names]
    models = ", ".join(names) if len(names) <= NAMES_IN_TITLE else f"{len(names)} models"
    return models + (f" against {others[0]}" if others else "")


def _listing(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Yield models with what more there is to say of each; one line for all defenses of a model."""
    for model in outcome.models:
        if model.threat is None:
            yield f"{model.name} (baseline)" if model.name == outcome.baseline else model.name, model.arch
    for name in dict.fromkeys(model.defends for model in outcome.models if model.threat is not None):
        words = dict.fromkeys(model.defense for model in outcome.models if model.defends == name and model.threat)
        yield f"{name} behind {', '.join(words)}", ""


def _colored(sentence: str) -> str:
    """Return a sentence as HTML, its readings in colour and its numbers with a true minus."""
    text = re.sub(r" -(?=\.?\d)", " −", escape(sentence))
    return re.sub(r"\((better|worse)\)", r'(<strong class="\1">\1</strong>)', text)


def _item(picture: Picture) -> _Item:
    before, after, gain = plain(picture.clean_score), plain(picture.attacked_score), signed(picture.gain)
    attack = f"{picture.attack} at {budget(picture.budget)}"
    shown = (
        (picture.clean, "clean", f"{picture.name}, clean: {picture.model} scores it {before}"),
        (
            picture.attacked,
            "attacked",
            f"{picture.name} under {attack}: {picture.model} scores it {after} instead of {before}, "
            f"a change of {gain} of its score range",
        ),
        (
            picture.difference,
            "change × 20",
            f"What {attack} changed in {picture.name}, 20 times enlarged around mid-grey; "
            f"it moved the score from {before} to {after}",
        ),
    )
    images = tuple(_Image(*_embedded(data), alt, caption) for data, caption, alt in shown)
    return _Item(picture.name, picture.model, attack, before, after, gain.replace("-", "−"), images)


def _embedded(data: bytes) -> tuple[str, tuple[int, int]]:
    """Return an image file as a data URI, with its (width, height)."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        kind = Image.MIME[picture.format or "PNG"]
        return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}", picture.size
