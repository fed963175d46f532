"""`iqa-armor data`: look at datasets before they are used."""

from typing import Annotated

import typer

from iqa_armor.cli.arguments import Labels, Machine
from iqa_armor.cli.commands import COMMANDS
from iqa_armor.cli.console import progress, say, say_next, show_if_json, show_table, stderr
from iqa_armor.cli.options import ArmorCommand, options

data = typer.Typer(no_args_is_help=True, help=COMMANDS["data"], add_completion=False)
SPEC = typer.Argument(metavar="SPEC", help="A dataset as --data takes it: csv:labels.csv or kadid10k:DIR.")


@data.callback()
def _root() -> None:
    """Keep `check` a command of its own although it is the only one."""


@data.command(cls=ArmorCommand)
@options(without={"device", "data"})
def check(spec: Annotated[str, SPEC], labels: Labels, machine: Machine) -> None:
    """Show what a dataset holds, read every image once, and see whether its labels rise with quality.

    Ends with exit code 5 where images or labels are missing or cannot be read. Labels that seem to fall with
    quality are a warning only.

    Examples:
        iqa-armor data check csv:labels.csv
        iqa-armor data check kadid10k:DIR
    """
    from iqa_armor.pipeline.data import check_data

    with progress() as bars:
        found, problems = check_data(labels.open(spec, progress=bars), progress=bars)
    if not show_if_json(found):
        say(found["data"]["spec"])
        rows = []
        for split, part in found["splits"].items():
            scores = (part[name] for name in ("low", "high", "mean"))
            rows.append((split, str(part["images"]), *("–" if each is None else f"{each:.4g}" for each in scores)))
        show_table(("split", "images", "lowest score", "highest", "mean"), rows)
        say(f"labels: {found['data']['labels'] or 'none'}")
        if direction := found["direction"]:
            measured = f"{direction['measure']} on {direction['images']} images"
            say(f"direction: SROCC {direction['correlation']:.3f} of the labels with {measured}")
        if sizes := found["sizes"]:
            least, most, usual = ("{}x{}".format(*sizes[name]) for name in ("smallest", "largest", "commonest"))
            rest = f"{sizes['share']:.0%} are {usual} ({sizes['different']} different)"
            say(f"sizes: all {usual}" if sizes["different"] == 1 else f"sizes: {least} to {most}, {rest}")
    say(*(f"warning: {warning}" for warning in found["warnings"]), to=stderr)
    problems.raise_if_any("replace or remove these files, then run again")
    say_next("train", "resnet18", "--data", spec, *labels.words())
