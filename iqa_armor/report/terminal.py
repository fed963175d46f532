"""An outcome as tables for the terminal, in the form of the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iqa_armor.report.reading import GAIN, Comparison, compare, headline, short, verdict
from iqa_armor.results import ModelEntry, Outcome

WIDE = 110  # columns from which cost fits beside the figures
STYLES = {"better": "green", "worse": "red", "not separable": "dim", "not defined": "dim"}


@dataclass(frozen=True)
class TerminalReport:
    """A rich renderable: verdict, table of models, differences to the baseline, data and settings."""

    outcome: Outcome

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts, laid out for the console's width."""
        for sentence in verdict(self.outcome):
            yield _colored(sentence)
        yield figures_table(self.outcome, is_wide=options.max_width >= WIDE)
        if self.outcome.baseline is not None and self.outcome.baseline_entry is not self.outcome.compared[0]:
            yield differences_table(self.outcome)
        yield Padding(Text("\n".join(_footnotes(self.outcome)), style="dim"), (0, 1))


def figures_table(outcome: Outcome, *, is_wide: bool = False) -> Table:
    """Return one row per model: SROCC/PLCC, AbsGainAUC and R-ScoreAUC per attack, SROCC under attack.

    Args:
        outcome: What to show.
        is_wide: Whether to add gains in standard deviations and the cost of running the model.
    """
    attack, key = headline(outcome)
    attacks = list(outcome.settings.attacks)
    names = _join(attacks)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("Model", overflow="fold", min_width=8)
    headings = [
        "SROCC/PLCC",
        f"AbsGainAUC\n{names}",
        f"R-ScoreAUC\n{names}",
        f"SROCC under\n{attack}, {key}/255",
    ]
    wide_headings = [f"Gain in std\n{names}", "Parameters", "GFLOPs", "ms/image"]
    for heading in headings + (wide_headings if is_wide else []):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in outcome.models:
        cells = _figures(model, attacks, attack, key) + (_costs(model, attacks) if is_wide else [])
        table.add_row(_label(outcome, model), *cells)
    return table


def differences_table(outcome: Outcome) -> Table:
    """Return a section per compared model: difference, interval and reading of each figure."""
    percent = f"{outcome.settings.confidence * 100:g} %"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"Difference to {outcome.baseline}", overflow="fold", min_width=22)
    table.add_column(f"and its {percent} interval", justify="right", no_wrap=True)
    table.add_column("Ratio", justify="right", no_wrap=True)
    table.add_column("Reading", no_wrap=True)
    for model in outcome.compared:
        table.add_row(Text(model.name, style="bold"))
        rows = compare(outcome, model)
        for position, row in enumerate(rows):
            cells = (_interval(row), _ratio(row), Text(row.reading, style=STYLES[row.reading]))
            table.add_row(f"  {row.figure}", *cells, end_section=position == len(rows) - 1)
    return table


def _figures(model: ModelEntry, attacks: Sequence[str], attack: str, key: str) -> list[str]:
    found = [model.attacks[name] for name in attacks]
    under = model.attacks[attack].srocc.get(key) if attack in model.attacks else None
    return [
        f"{short(model.srocc)}/{short(model.plcc)}",
        _join([short(figures.abs_gain_auc) for figures in found]),
        _join([short(figures.r_score_auc) for figures in found]),
        short(under),
    ]


def _costs(model: ModelEntry, attacks: Sequence[str]) -> list[str]:
    seconds = model.timing.seconds_per_image
    return [
        _join([short(model.attacks[name].abs_gain_std_auc) for name in attacks]),
        f"{model.parameters:,}",
        "–" if model.flops is None else f"{model.flops / 1e9:.3g}",
        "–" if seconds is None else f"{seconds * 1000:.3g}",
    ]


def _colored(sentence: str) -> Text:
    text = Text(sentence, style="bold")
    for reading in ("better", "worse"):
        text.highlight_words([f"({reading})"], STYLES[reading])
    return text


def _label(outcome: Outcome, model: ModelEntry) -> Text:
    label = Text(model.name)
    if model.name == outcome.baseline:
        label.append(" (baseline)", style="dim")
    return label


def _join(values: Sequence[str]) -> str:
    return ("/" if len(values) <= 2 else "\n").join(values)


def _interval(row: Comparison) -> Text:
    limits = f"[{_signed(row.interval.low)}, {_signed(row.interval.high)}]"
    return Text(f"{_signed(row.interval.value)} {limits}")


def _signed(value: float | None) -> str:
    return short(value) if value is None or value < 0 else f"+{short(value)}"


def _ratio(row: Comparison) -> str:
    if not row.figure.startswith(GAIN):
        return ""
    if row.value is None or row.baseline is None or row.baseline <= 0:
        return "–"
    return f"× {row.value / row.baseline:.2f}"


def _footnotes(outcome: Outcome) -> list[str]:
    settings = outcome.settings
    data = [
        f"{entry.spec}: {entry.images} {entry.split} images"
        f"{'' if entry.has_scores else ', no opinion scores'}, weight {entry.weight:g}"
        for entry in outcome.data
    ]
    budgets = ", ".join(f"{epsilon:g}" for epsilon in settings.epsilons)
    verb = "raise" if settings.direction > 0 else "lower"
    return [
        *data,
        f"Attacks {verb} scores within ε = {budgets} /255 (L∞); gains are fractions of the model's own score "
        "range on clean training images; AUC is the mean over ε.",
        f"Intervals: paired bootstrap over images, {settings.resamples} resamples, seed {settings.seed}.",
    ]
