"""`iqa-armor info`: who made a model file."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from iqa_armor.cli.arguments import ModelArg
from iqa_armor.cli.console import say, say_next, show_if_json, stdout
from iqa_armor.cli.options import options


@options()
def info(model: ModelArg) -> None:
    """What the file records is joined by the card beside it, which has date, command line and source file.

    Examples:
        iqa-armor info model-hardened.safetensors
        iqa-armor info model-hardened.safetensors --json
    """
    from iqa_armor.pipeline.card import describe_file
    from iqa_armor.pipeline.hub import fetched

    known = describe_file(fetched(model))
    if show_if_json(known):
        return
    run, made = known["run"] or {}, known["provenance"]
    facts = {name: known[name] for name in ("name", "arch", "sha256", "bytes", "values")} | run
    for part in ("source", "data"):
        facts |= {f"{part}.{name}": value for name, value in (made.get(part) or {}).items()}
    facts |= {"score range": known["score_scale"], "versions": made.get("versions")}
    facts |= {f"held-out SROCC, {step}": f"{value:.3f}" for step, value in (made.get("held_out_srocc") or {}).items()}
    facts |= {f"recipe.{name}": value for name, value in known["recipe"].items()}
    say(str(known["file"]))
    _show({name: _written(value) for name, value in facts.items()}, to=stdout)
    if not run:
        say("no card stands beside it, so date and command line are not known")
    say_next("card", model)


def _show(facts: Mapping[str, str], *, to: Console) -> None:
    """Show names and what is known of them, in a terminal with long texts broken beside their names."""
    width = max(map(len, facts))
    if not to.is_terminal:
        say(*(f"  {name:{width}}  {told}" for name, told in facts.items()), to=to)
        return
    table = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
    for name, told in facts.items():
        table.add_row(name, Text(told, overflow="fold"))
    to.print(table)


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_written(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(map(_written, value))
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
