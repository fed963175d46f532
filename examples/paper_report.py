"""Write the rows of `reproduce_paper.py` in the form of the paper's tables, with the paper's own rows below."""

import statistics
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
Column = Callable[[Entry], float | None]
PAPER = Path(__file__).with_name("paper_tables.toml")
TITLES = {
    "1": "Positions of the block, and training-based defenses (one-step PGD)",
    "2": "One block before the last stage, per model (one-step PGD)",
    "3": "Backends of the full method (block, pruning, fine-tuning)",
    "4": "The full method beside training-based defenses",
}
# Rows of each table, in the paper's order; the control stands in every one (ours). None takes all blocks at cuts.
TABLES: dict[str, tuple[str | None, ...]] = {
    "1": ("base", "control", "AT", "NT", None, "block alone"),
    "2": ("base", "control", "block alone"),
    "3": ("base", "control", "Cayley", "AOC", "AOL"),
    "4": ("base", "control", "NT", "AT", "SiLU", "pruning alone", "Cayley", "Cayley + NT", "Cayley + AT"),
}
HEADLINE = "4"  # of ε, in 1/255
SHORT_HEADS = ("AbsGain", "÷ base", "R-Score")
LONG_HEADS = (
    "AbsGainAUC PGD-1 / PGD-8",
    "÷ base",
    "R-ScoreAUC PGD-1 / PGD-8",
    "AbsGain UAP / stAdv",
    "R-Score UAP / stAdv",
)


def figure(*path: str) -> Column:
    """Return what reads one figure of an evaluation's entry."""

    def read(entry: Entry) -> float | None:
        value: Any = entry
        for key in path:
            value = value.get(key) if value else None
        return value

    return read


def one_step(name: str) -> Column:
    """Return what reads a figure of PGD-1, which is the same for every ε, at the smallest."""

    def read(entry: Entry) -> float | None:
        by_epsilon: dict[str, float] = entry["attacks"]["pgd1"][name]
        return next(iter(by_epsilon.values()))

    return read


OWN = {"srocc": figure("srocc"), "plcc": figure("plcc")}
SHORT: dict[str, Column] = OWN | {
    "gain": one_step("abs_gain"),
    "r": one_step("r_score"),
    "epoch": figure("epoch_seconds"),
    "test": figure("timing", "seconds_per_image"),
}
LONG: dict[str, Column] = OWN | {
    "gain1": figure("attacks", "pgd1", "abs_gain_auc"),
    "gain8": figure("attacks", "pgd8", "abs_gain_auc"),
    "r1": figure("attacks", "pgd1", "r_score_auc"),
    "r8": figure("attacks", "pgd8", "r_score_auc"),
    "gain_uap": figure("attacks", "uap", "abs_gain_auc"),
    "gain_stadv": figure("attacks", "stadv", "abs_gain_auc"),
    "r_uap": figure("attacks", "uap", "r_score_auc"),
    "r_stadv": figure("attacks", "stadv", "r_score_auc"),
}
UNDER_ATTACK = figure("attacks", "pgd8", "srocc", HEADLINE)
GAIN_DIFFERENCE = ("difference_to_baseline", "attacks", "pgd8", "abs_gain", HEADLINE)


def write_tables(results: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown of the four tables.

    Args:
        results: Per model: its name, rows (entries of `evaluate` with row, seed and epoch_seconds), maps, epochs, data,
            settings and versions.
    """
    published = tomllib.loads(PAPER.read_text(encoding="utf-8"))
    return "\n".join([_conditions(results[0]), *(_table(number, results, published) for number in TABLES)])


def _conditions(result: dict[str, Any]) -> str:
    data = "; ".join(f"{entry['images']} images of {Path(entry['spec']).name}" for entry in result["data"])
    seeds = max(entry["seed"] for entry in result["rows"]) + 1
    return (
        f"Evaluated on {data}; {result['epochs']} epochs of fine-tuning, {seeds} seed{'s' * (seeds > 1)} "
        f"(means), {result['settings']['device']}, PyTorch {result['versions']['torch']}. *Rows in italics are the "
        "paper's, measured by its authors with other models, data and machines.* Divided figures are ratios to the "
        f"base of the same measurement. SROCC under attack: PGD-8, ε = {HEADLINE}/255.\n"
    )


def _table(number: str, results: Sequence[dict[str, Any]], published: dict[str, Any]) -> str:
    heads = ["SROCC / PLCC", *(SHORT_HEADS if number in ("1", "2") else LONG_HEADS)]
    heads += ["epoch, s", "test, ms"] if number == "1" else []
    heads += ["SROCC under attack", "PGD-8 gain minus the control's"]
    lines = [f"### Table {number}. {TITLES[number]}\n", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for result in results:
        lines += _own_rows(number, result)
    base: Entry = {}
    for row in published[number]["rows"]:
        base = row if row.get("base") else base
        cells = [*_cells(number, row, base), "", ""]
        lines.append(f"| *[RA] {row['name']}* | " + " | ".join(f"*{c}*" if c else "–" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def _own_rows(number: str, result: dict[str, Any]) -> list[str]:
    known = list(dict.fromkeys(entry["row"] for entry in result["rows"]))
    cuts = [row for row in known if row.startswith("block at cut")]
    wanted = [row for name in TABLES[number] for row in (cuts if name is None else [name]) if row in known]
    columns = SHORT if number in ("1", "2") else LONG
    base: Entry = {}
    lines = []
    for row in wanted:
        entries = [entry for entry in result["rows"] if entry["row"] == row]
        values = {name: _mean([column(entry) for entry in entries]) for name, column in columns.items()}
        base = values if row == "base" else base
        label = result["name"] if row == "base" else f"+ {row}"
        label += f" ({result['maps'][row]})" if row in result["maps"] else ""
        cells = [*_cells(number, values, base), _number(_mean([UNDER_ATTACK(entry) for entry in entries]))]
        lines.append(f"| {label} | " + " | ".join([*cells, _differences(entries)]) + " |")
    return lines


def _cells(number: str, row: Entry, base: Entry) -> list[str]:
    """Return a row's figures in the paper's columns."""

    def pair(first: str, second: str) -> str:
        return f"{_number(row.get(first))} / {_number(row.get(second))}"

    def over(name: str) -> str:
        value, reference = row.get(name), base.get(name)
        return "–" if value is None or not reference or reference <= 0 else f"{value / reference:.2f}"

    cells = [pair("srocc", "plcc")]
    if number in ("1", "2"):
        cells += [_number(row.get("gain")), over("gain"), _number(row.get("r"))]
        if number == "1":
            # The paper times its whole test set (2,015 images), we one image.
            test = row.get("test")
            milliseconds = None if test is None else test * 1000 if test < 1 else test / 2015 * 1000
            cells += [_number(row.get("epoch"), 1), _number(milliseconds, 1)]
        return cells
    ratios = f"{over('gain1')} / {over('gain8')}"
    return [
        *cells,
        pair("gain1", "gain8"),
        ratios,
        pair("r1", "r8"),
        pair("gain_uap", "gain_stadv"),
        pair("r_uap", "r_stadv"),
    ]


def _differences(entries: Sequence[Entry]) -> str:
    """Return, per seed, the difference to the control with its interval."""
    shown = []
    for entry in entries:
        value = figure(*GAIN_DIFFERENCE)(entry)
        if isinstance(value, dict) and value["value"] is not None and entry["row"] != "control":
            shown.append(f"{value['value']:+.3f} [{_signed(value['low'])}, {_signed(value['high'])}]")
    return "; ".join(shown) or "–"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"
