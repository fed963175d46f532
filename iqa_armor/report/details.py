"""The tables behind the figures: datasets, budgets, strength checks."""

from __future__ import annotations

from collections.abc import Iterator

from iqa_armor.report.cells import Cell, Row, Table, across, figure_text, head_cell, value_cell
from iqa_armor.report.notation import DASH, budget, listed, plain
from iqa_armor.report.purified import purifications
from iqa_armor.report.reading import area, attacks_shown, figures_of, headline
from iqa_armor.results.figures import DatasetFigures, Figures
from iqa_armor.results.outcome import Outcome

SYMBOLS = {"passed": "✓", "failed": "✗", "not applicable": DASH}


def datasets_table(outcome: Outcome) -> Table | None:
    """Return the figures of every dataset by itself; None where there is one only."""
    if len(outcome.data) < 2:
        return None
    attack, key = headline(outcome)
    words = ("Images", "SROCC", "PLCC", "PLCC, logistic fit", f"AbsGainAUC {attack}", f"SROCC, {attack} {budget(key)}")
    head = (Cell("Dataset", scope="col"), *map(head_cell, words))
    groups = tuple(
        (
            across(outcome, model, len(head)),
            *(_dataset_row(spec, part, attack, key) for spec, part in model.datasets.items()),
        )
        for model in outcome.models
    )
    return Table("Every dataset", (head,), groups)


def budgets_table(outcome: Outcome) -> Table | None:
    """Return a row per model, attack and budget; None where nothing was attacked."""
    words = (
        "AbsGain",
        "unsigned",
        "in std",
        "R-Score",
        "SROCC",
        "PLCC",
        *_purified(outcome),
        "max L∞ ·255",
        "PSNR, dB",
    )
    head = (Cell("Attack", scope="col"), Cell("ε", scope="col", kind="n"), *map(head_cell, words))
    groups = tuple(
        (across(outcome, model, len(head)), *_budget_rows(outcome, model)) for model in outcome.models if model.attacks
    )
    return Table("Every budget", (head,), groups, "ε and distances in 1/255.") if groups else None


def checks_table(outcome: Outcome) -> Table | None:
    """Return a row per model and strength check; None where none was made."""
    head = tuple(Cell(word, scope="col") for word in ("Check", "Result", "What it says", "Figures"))
    groups = tuple(
        (
            across(outcome, model, len(head)),
            *(
                (
                    Cell(check.name, scope="row"),
                    Cell(f"{SYMBOLS[check.status]} {check.status}", kind=check.status.replace(" ", "-")),
                    Cell(check.says, kind="prose"),
                    Cell(listed(check.figures), kind="figures"),
                )
                for check in model.checks
            ),
        )
        for model in outcome.models
        if model.checks
    )
    return Table("Were the attacks strong?", (head,), groups) if groups else None


def _dataset_row(spec: str, part: DatasetFigures, attack: str, key: str) -> Row:
    under = figures_of(part, attack)
    figures = (part.srocc, part.plcc, part.plcc_logistic, area(under, "abs_gain"), under.srocc.get(key))
    return Cell(spec, scope="row"), *map(value_cell, (str(part.images), *map(figure_text, figures)))


def _purified(outcome: Outcome) -> tuple[str, ...]:
    return ("Quality", "Gain score") if purifications(outcome) else ()


def _budget_rows(outcome: Outcome, model: Figures) -> Iterator[Row]:
    for attack in attacks_shown(outcome):
        figures = figures_of(model, attack)
        columns = (figures.abs_gain, figures.abs_gain_unsigned, figures.abs_gain_std, figures.r_score)
        purified = (figures.quality, figures.gain_score) if _purified(outcome) else ()
        for key in figures.abs_gain:
            values = [figure_text(column.get(key)) for column in (*columns, figures.srocc, figures.plcc, *purified)]
            values += [plain(figures.max_linf.get(key)), plain(figures.psnr.get(key))]
            yield Cell(attack, scope="row"), value_cell(key), *map(value_cell, values)
