"""An outcome as tables for the terminal, in the form of the paper's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iqa_armor.report.conditions import data_line, intervals, reach, star_note, starred
from iqa_armor.report.looks import row_name
from iqa_armor.report.notation import budget, giga, listed, milli, short, signed
from iqa_armor.report.purified import definitions, purifications
from iqa_armor.report.purified_terminal import purifiers_table
from iqa_armor.report.reading import (
    GAIN,
    WORST,
    Area,
    Comparison,
    area,
    attacks_shown,
    compare,
    failed_checks,
    figures_of,
    headline,
    shown_budget,
)
from iqa_armor.report.verdicts import verdict
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

WIDE = 110  # columns from which cost fits beside the figures
MORE = 15  # further columns that it takes with attacks below one another or with the worst case beside them
WIDE_PURIFIERS = 120  # columns from which every attack on purifiers fits
BESIDE = 13  # letters of two attacks' names that stand side by side
STYLES = {"better": "green", "worse": "red", "not separable": "dim", "not defined": "dim"}
CAUTION = "yellow"
STATUS = {"passed": "green", "failed": CAUTION, "not applicable": "dim"}


@dataclass(frozen=True)
class TerminalReport:
    """A rich renderable: verdict, failed checks, models, differences to the baseline, checks, data and settings."""

    outcome: Outcome

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts, laid out for the console's width."""
        failed = failed_checks(self.outcome)
        for sentence in verdict(self.outcome):
            yield _colored(sentence, style=f"bold {CAUTION}" if failed else "bold")
        for model, check in failed:
            yield Text(f"Caution, {model.name} failed the check {check.name!r}: {check.says}", style=CAUTION)
        needed = WIDE if _is_beside(self.outcome) and WORST not in attacks_shown(self.outcome) else WIDE + MORE
        yield figures_table(self.outcome, is_wide=options.max_width >= needed)
        if (purifiers := purifiers_table(self.outcome, is_wide=options.max_width >= WIDE_PURIFIERS)) is not None:
            yield purifiers
        if self.outcome.baseline is not None and self.outcome.baseline_entry is not self.outcome.compared[0]:
            yield differences_table(self.outcome)
        if any(model.checks for model in self.outcome.models):
            yield checks_table(self.outcome)
        yield Padding(Text("\n".join(_footnotes(self.outcome)), style="dim"), (0, 1))


def figures_table(outcome: Outcome, *, is_wide: bool = False) -> Table:
    """Return one row per model: SROCC/PLCC, AbsGainAUC and R-ScoreAUC per attack, SROCC under attack, worst case.

    Args:
        outcome: What to show.
        is_wide: Whether to add gains in standard deviations and the cost of running the model.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("Model", overflow="fold", min_width=8)
    for heading in _headings(outcome, is_wide=is_wide):
        table.add_column(Text(heading), justify="left" if heading == "Attack" else "right", no_wrap=True)
    for model in outcome.models:
        table.add_row(_label(outcome, model), *map(Text, _cells(outcome, model, is_wide=is_wide)))
    return table


def differences_table(outcome: Outcome) -> Table:
    """Return a section per compared model: difference, interval and reading of each figure."""
    percent = f"{outcome.settings.confidence * 100:g} %"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text(f"Difference to {outcome.baseline}"), overflow="fold", min_width=22)
    table.add_column(f"and its {percent} interval", justify="right", no_wrap=True)
    table.add_column("Ratio", justify="right", no_wrap=True)
    table.add_column("Reading", no_wrap=True)
    for model in outcome.compared:
        table.add_row(Text(model.name, style="bold"))
        rows = compare(outcome, model)
        for position, row in enumerate(rows):
            cells = (_interval(row), _ratio(row), Text(row.reading, style=STYLES[row.reading]))
            table.add_row(Text(f"  {row.figure}"), *cells, end_section=position == len(rows) - 1)
    return table


def checks_table(outcome: Outcome) -> Table:
    """Return a section per model: its strength checks, whether they passed and on what figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Strength of the attacks", overflow="fold", min_width=22)
    table.add_column("Check", no_wrap=True)
    table.add_column("Figures", overflow="fold")
    for model in outcome.models:
        if model.checks:
            table.add_row(Text(model.name, style="bold"))
        for position, check in enumerate(model.checks):
            status = Text(check.status, style=STATUS[check.status])
            is_last = position == len(model.checks) - 1
            table.add_row(Text(f"  {check.name}"), status, Text(listed(check.figures)), end_section=is_last)
    return table


def _is_beside(outcome: Outcome) -> bool:
    """Return whether attacks stand side by side as in the paper, not below one another with their names."""
    names = list(outcome.settings.attacks)
    return len(names) <= 2 and len(_join(names)) <= BESIDE


def _headings(outcome: Outcome, *, is_wide: bool) -> list[str]:
    attack, key = headline(outcome)
    cost = ["Parameters", "GFLOPs", "ms/image"] if is_wide else []
    if not _is_beside(outcome):
        std = ["Gain in\nstd"] if is_wide else []
        return ["SROCC/PLCC", "Attack", f"{GAIN}\nAUC", "R-Score\nAUC", f"SROCC at\n{budget(key)}", *std, *cost]
    names = _join([starred(outcome, name) for name in outcome.settings.attacks])
    std = [f"Gain in std\n{names}"] if is_wide else []
    worst = [f"Worst case\n{GAIN}AUC"] if WORST in attacks_shown(outcome) else []
    under = f"SROCC under\n{attack}, {budget(key)}"
    return ["SROCC/PLCC", f"{GAIN}AUC\n{names}", f"R-ScoreAUC\n{names}", under, *worst, *std, *cost]


def _cells(outcome: Outcome, model: ModelEntry, *, is_wide: bool) -> list[str]:
    attack, key = headline(outcome)
    is_beside, shown = _is_beside(outcome), attacks_shown(outcome)
    names = list(outcome.settings.attacks) if is_beside else shown
    quality = f"{short(model.srocc)}/{short(model.plcc)}"
    gains, r_scores = _areas(model, names, "abs_gain"), _areas(model, names, "r_score")
    std = [_areas(model, names, "abs_gain_std")] if is_wide else []
    cost = [f"{model.parameters:,}", giga(model.flops), milli(model.timing.seconds_per_image)] if is_wide else []
    if is_beside:
        worst = [_areas(model, [WORST], "abs_gain")] if WORST in shown else []
        return [quality, gains, r_scores, short(figures_of(model, attack).srocc.get(key)), *worst, *std, *cost]
    ranked = "\n".join(short(figures_of(model, name).srocc.get(shown_budget(outcome, name))) for name in names)
    return [quality, "\n".join(starred(outcome, name) for name in names), gains, r_scores, ranked, *std, *cost]


def _areas(model: ModelEntry, names: Sequence[str], figure: Area) -> str:
    return _join([short(area(figures_of(model, name), figure)) for name in names])


def _colored(sentence: str, *, style: str) -> Text:
    text = Text(sentence, style=style)
    for reading in ("better", "worse"):
        text.highlight_words([f"({reading})"], STYLES[reading])
    return text


def _label(outcome: Outcome, model: ModelEntry) -> Text:
    label = Text(row_name(outcome, model))
    if model.name == outcome.baseline:
        label.append(" (baseline)", style="dim")
    return label


def _join(values: Sequence[str]) -> str:
    return ("/" if len(values) <= 2 else "\n").join(values)


def _interval(row: Comparison) -> Text:
    limits = f"[{signed(row.interval.low)}, {signed(row.interval.high)}]"
    return Text(f"{signed(row.interval.value)} {limits}")


def _ratio(row: Comparison) -> str:
    if not row.figure.startswith(GAIN):
        return ""
    return "–" if row.ratio is None else f"× {row.ratio:.2f}"


def _footnotes(outcome: Outcome) -> Iterator[str]:
    yield from map(data_line, outcome.data)
    yield (
        f"{reach(outcome)} Gains are fractions of the model's own score range on clean training images; AUC is the "
        "mean over ε."
    )
    if note := star_note(outcome):
        yield note
    if WORST in attacks_shown(outcome):
        yield "Worst case: for each image and budget the attack that moved the score farthest."
    if purifications(outcome):
        yield from definitions(outcome)
    yield intervals(outcome)
