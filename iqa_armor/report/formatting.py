"""Figures, budgets and models as texts and marks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

from jinja2 import Environment

from iqa_armor.report.document import Cell, Mark
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

DASH = "–"
UP, DOWN = "\u00a0↑", "\u00a0↓"  # which way is better, behind a space that does not break
NORMS = {"linf": "L∞", "l2": "L2", "rmse": "RMSE", "flow": "displacement", "none": "no limit"}
GREY = "#5c6370"
LABEL_LENGTH = 21
# Dark enough to be read as text on white (contrast over 4.5), apart for the colour-blind by lightness and marker.
COLORS = ("#0067b1", "#b84300", "#00734f", "#97347f", "#7a5c00", "#3a3aa8", "#8c1c2e")
MARKERS = ("s", "^", "D", "v", "P", "X", "*")
SYMBOLS = ("■", "▲", "◆", "▼", "✚", "✖", "★")
HOLLOW = dict(zip((*SYMBOLS, "●"), "□△◇▽✙✗☆○", strict=True))
UNAWARE = "○"  # marks what an attack without knowledge of the defense found


def short(value: float | None) -> str:
    """Return a figure as the paper prints it: three decimals, no leading zero; a dash where undefined."""
    if value is None:
        return DASH
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def signed(value: float | None) -> str:
    return short(value) if value is None or value < 0 else f"+{short(value)}"


def plain(value: float | str | None) -> str:
    """Return a number of any size with four significant digits, a word as it stands, a dash for None."""
    return value if isinstance(value, str) else significant(value, 4)


def budget(key: str) -> str:
    return f"its {key} budget" if key == "own" else f"{key}/255"


def listed(values: Mapping[str, float | int | str | None]) -> str:
    return ", ".join(f"{name}\u00a0=\u00a0{plain(value)}" for name, value in values.items())


def significant(value: float | None, digits: int = 3, *, unit: float = 1) -> str:
    """Return a number with some significant digits, counted in `unit`; a dash for None."""
    return DASH if value is None else f"{value / unit:.{digits}g}"


def sentences(template: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the lines of a template of this folder, each once."""
    text = resources.files("iqa_armor.report").joinpath(template).read_text(encoding="utf-8")
    lines = Environment(trim_blocks=True).from_string(text).render(told).split("\n")
    return tuple(filter(None, dict.fromkeys(lines)))


def marks(names: Sequence[str], baseline: str | None) -> dict[str, Mark]:
    """Return a mark for every name; the baseline's, if there is one, is a grey disc."""
    count = len(COLORS)
    found = {} if baseline is None else {baseline: Mark(GREY, "o", "●")}
    for i, name in enumerate(name for name in names if name != baseline):
        shape = (i + i // count) % count  # after the last colour the first comes again, with another marker
        found[name] = Mark(COLORS[i % count], MARKERS[shape], SYMBOLS[shape])
    return found


def model_marks(outcome: Outcome) -> dict[str, Mark]:
    """Return a mark for every model, one for both threats to a defense, hollow where attacks do not know it."""
    drawn = {model.name: _drawn_as(model) for model in outcome.models}
    found = marks(list(dict.fromkeys(drawn.values())), outcome.baseline)
    hollow = {name: replace(mark, symbol=HOLLOW[mark.symbol], is_hollow=True) for name, mark in found.items()}
    return {m.name: (hollow if m.threat == "bare" else found)[drawn[m.name]] for m in outcome.models}


def model_labels(outcome: Outcome) -> dict[str, str]:
    """Return a short label for every model or its defense, with `UNAWARE` where the attack does not know that."""
    labels = {}
    for model in outcome.models:
        words = model.name if model.threat is None else defense_label(outcome, model)
        mark = f" {UNAWARE}" * (model.threat == "bare")
        labels[model.name] = brief(words, LABEL_LENGTH - len(mark)) + mark
    return labels


def defense_label(outcome: Outcome, model: ModelEntry) -> str:
    """Return the words of a model's defense, after the model's own name where there are several."""
    is_alone = len({each.defends or each.name for each in outcome.models}) == 1
    return model.defense if is_alone else _drawn_as(model)


def row_name(outcome: Outcome, model: ModelEntry) -> str:
    """Return what stands in front of a model's row: of one behind a defense only that, where there is one model."""
    if model.threat is None:
        return model.name + " (baseline)" * (model.name == outcome.baseline)
    words = defense_label(outcome, model)
    return f"{'+ ' * (words == model.defense)}{words}{' (unaware)' if model.threat == 'bare' else ''}"


def name_cell(outcome: Outcome, model: ModelEntry) -> Cell:
    return Cell(row_name(outcome, model), "strong", model_marks(outcome)[model.name])


def brief(name: str, length: int = LABEL_LENGTH) -> str:
    """Return a name short enough to label a line; the middle is left out."""
    if len(name) <= length:
        return name
    tail = (length - 1) * 2 // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def _drawn_as(model: ModelEntry) -> str:
    return model.name if model.threat is None else f"{model.defends} + {model.defense}"
