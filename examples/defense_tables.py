"""Write what `evaluate --purify … --json` and `certify --json` found as Markdown tables.

    iqa-armor evaluate base.safetensors hardened.safetensors --data csv:labels.csv --purify jpeg --json > p.json
    iqa-armor certify hardened.safetensors --baseline base.safetensors --data csv:labels.csv --method ms --json > c.json
    python examples/defense_tables.py --purifiers p.json --certificates c.json

"Unaware" attacks fool the bare model, "aware" ones the model behind its defense (BPDA, EOT).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Entry = dict[str, Any]
UNKNOWN = "–"


def main(
    purifiers: Annotated[Path | None, typer.Option(metavar="JSON", help="What evaluate wrote.")] = None,
    certificates: Annotated[Path | None, typer.Option(metavar="JSON", help="What certify wrote.")] = None,
) -> None:
    """Print the tables."""
    if purifiers is not None:
        typer.echo(purifier_table(json.loads(purifiers.read_text(encoding="utf-8"))))
    if certificates is not None:
        typer.echo(certificate_table(json.loads(certificates.read_text(encoding="utf-8"))))


def purifier_table(outcome: Entry) -> str:
    """Return a row per model and defense: clean figures, and the gains of both kinds of attack."""
    attacks = list(outcome["settings"]["attacks"])
    budgets = [list(outcome["settings"]["budgets"][attack])[-1] for attack in attacks]
    named = " / ".join(attacks)
    heads = ("", "SROCC", "clean quality", "clean gain score", f"AbsGain, unaware: {named}", f"AbsGain, aware: {named}")
    heads += ("gain score, unaware / aware", "SROCC under the strongest, unaware / aware")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    plain = [entry for entry in outcome["models"] if not entry["defense"]]
    for model in plain:
        lines.append(_purifier_row(model["name"], [model, model], attacks, budgets))
        behind = [
            entry for entry in outcome["models"] if entry["defense"] and entry["name"].startswith(model["name"] + " +")
        ]
        for defense in dict.fromkeys(entry["defense"] for entry in behind):
            pair = {entry["threat"]: entry for entry in behind if entry["defense"] == defense}
            lines.append(_purifier_row(f"+ {defense}", [pair.get("bare"), pair.get("adaptive")], attacks, budgets))
    return "\n".join(lines) + "\n"


def _purifier_row(name: str, pair: Sequence[Entry | None], attacks: Sequence[str], budgets: Sequence[str]) -> str:
    known: Entry = next(entry for entry in pair if entry is not None)

    def under(entry: Entry | None, figure: str) -> list[float | None]:
        if entry is None:
            return [None] * len(attacks)
        found = (entry["attacks"][attack][figure] for attack in attacks)
        return [by_budget.get(budget) for by_budget, budget in zip(found, budgets, strict=True)]

    def strongest(entry: Entry | None) -> float | None:
        """Return the lowest SROCC over the attacks."""
        return min((value for value in under(entry, "srocc") if value is not None), default=None)

    gains = [" / ".join(map(_number, under(entry, "abs_gain"))) for entry in pair]
    overall = " / ".join(_number(_mean(under(entry, "gain_score"))) for entry in pair)
    cells = [_number(known["srocc"]), _number(known["clean_quality"]), _number(known["clean_gain_score"]), *gains]
    cells += [overall, " / ".join(_number(strongest(entry)) for entry in pair)]
    return f"| {name} | {' | '.join(cells)} |"


def certificate_table(found: Entry) -> str:
    """Return a row per model and method: how far apart the bounds are, and what the smoothed score is worth."""
    heads = (
        "",
        "guarantee",
        "delta, score ranges",
        "÷ baseline",
        "abstained",
        "SROCC / PLCC",
        "s/image: score / bounds",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for model in found["models"]:
        agreement = f"{_number(model['srocc'])} / {_number(model['plcc'])}"
        plain = [UNKNOWN] * 4 + [agreement, f"{model['seconds_plain']:.2g} / {UNKNOWN}"]
        lines.append(f"| {model['name']} | {' | '.join(plain)} |")
        for word, figures in model["methods"].items():
            cells = [figures["guarantee"], _number(figures["delta_share"]), _number(figures["ratio_to_baseline"], 2)]
            cells += [f"{figures['abstained']:.0%}", f"{_number(figures['srocc'])} / {_number(figures['plcc'])}"]
            cells.append(f"{figures['seconds_smoothed']:.2g} / {figures['seconds_certified']:.2g}")
            lines.append(f"| + {word} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    typer.run(main)
