"""`iqa-armor data`: look at datasets before they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from iqa_armor.cli.arguments import Labels, Machine, open_data
from iqa_armor.cli.commands import COMMANDS
from iqa_armor.cli.console import progress, say, say_next, show_if_json, show_table, stderr
from iqa_armor.cli.help import ArmorCommand
from iqa_armor.cli.options import options

if TYPE_CHECKING:
    from iqa_armor.pipeline.data import DataCheck, SizeSummary

data = typer.Typer(no_args_is_help=True, help=COMMANDS["data"], add_completion=False)


@data.callback()
def _root() -> None:
    """Keep `check` a command of its own although it is the only one."""


@data.command(cls=ArmorCommand)
@options(without={"device"})
def check(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="A dataset as --data takes it: csv:labels.csv or kadid10k:DIR.")
    ],
    labels: Labels,
    machine: Machine,
) -> None:
    """Show what a dataset holds, read every image once, and see whether its labels rise with quality.

    Ends with exit code 5 where images or labels are missing or cannot be read. Labels that seem to fall with
    quality are a warning only.

    Examples:
        iqa-armor data check csv:labels.csv
        iqa-armor data check kadid10k:DIR
    """
    from iqa_armor.pipeline.data import check_data

    with progress() as bars:
        found = check_data(open_data(spec, labels, seed=0, progress=bars), progress=bars)
    is_told = show_if_json(found.as_plain())
    if not is_told:
        _show(found)
    say(*(f"warning: {warning}" for warning in found.warnings), to=stderr)
    found.problems.raise_if_any("replace or remove these files, then run again")
    if not is_told:
        say_next("train", "resnet18", "--data", spec)


def _show(found: DataCheck) -> None:
    say(found.spec)
    rows = (
        (part.split, str(part.images), *("–" if n is None else f"{n:.4g}" for n in (part.low, part.high, part.mean)))
        for part in found.splits
    )
    show_table(("split", "images", "lowest score", "highest", "mean"), rows)
    say(f"labels: {found.labels or 'none'}")
    if found.direction is not None:
        measured = f"{found.direction.measure} on {found.direction.images} images"
        say(f"direction: SROCC {found.direction.correlation:.3f} of the labels with {measured}")
    if found.sizes is not None:
        say(_sizes(found.sizes))


def _sizes(sizes: SizeSummary) -> str:
    """Return the sizes as HEIGHTxWIDTH in words."""
    smallest, largest, commonest = ("{}x{}".format(*s) for s in (sizes.smallest, sizes.largest, sizes.commonest))
    if sizes.different == 1:
        return f"sizes: all {commonest}"
    return f"sizes: {smallest} to {largest}, {sizes.share:.0%} are {commonest} ({sizes.different} different)"
