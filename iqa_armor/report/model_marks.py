"""Marks and labels that tell models apart in charts and tables."""

from collections.abc import Sequence
from dataclasses import replace

from iqa_armor.report.document import Mark
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

GREY = "#5c6370"
LABEL_LENGTH = 21
# Dark enough to be read as text on white (contrast over 4.5), apart for the colour-blind by lightness and marker.
COLORS = ("#0067b1", "#b84300", "#00734f", "#97347f", "#7a5c00", "#3a3aa8", "#8c1c2e")
MARKERS = ("s", "^", "D", "v", "P", "X", "*")
SYMBOLS = ("■", "▲", "◆", "▼", "✚", "✖", "★")
HOLLOW = dict(zip((*SYMBOLS, "●"), "□△◇▽✙✗☆○", strict=True))
UNAWARE = "○"  # marks what an attack without knowledge of the defense found


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
    """Return a short label for every model, for one behind a defense that of the defense.

    The model's own name goes with it where there are several. `UNAWARE` is added where the attack does not know it.
    """
    labels = {}
    for model in outcome.models:
        words = model.name if model.threat is None else defense_label(outcome, model)
        is_unaware = model.threat == "bare"
        labels[model.name] = f"{brief(words, LABEL_LENGTH - 2)} {UNAWARE}" if is_unaware else brief(words)
    return labels


def defense_label(outcome: Outcome, model: ModelEntry) -> str:
    """Return the words of a model's defense, after the model's own name where there are several."""
    return model.defense if _is_alone(outcome) else _drawn_as(model)


def row_name(outcome: Outcome, model: ModelEntry) -> str:
    """Return what stands in front of a model's row: of one behind a defense only that, where there is one model."""
    if model.threat is None:
        return model.name + " (baseline)" * (model.name == outcome.baseline)
    words = defense_label(outcome, model)
    return f"{'+ ' * _is_alone(outcome)}{words}{' (unaware)' if model.threat == 'bare' else ''}"


def brief(name: str, length: int = LABEL_LENGTH) -> str:
    """Return a name short enough to label a line; the middle is left out."""
    if len(name) <= length:
        return name
    tail = (length - 1) * 2 // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def _is_alone(outcome: Outcome) -> bool:
    return len({model.defends or model.name for model in outcome.models}) == 1


def _drawn_as(model: ModelEntry) -> str:
    return model.name if model.threat is None else f"{model.defends} + {model.defense}"
