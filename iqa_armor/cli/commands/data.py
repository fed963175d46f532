"""`iqa-armor data`: look at datasets before they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from iqa_armor.cli.console import progress, show_json, stderr, stdout
from iqa_armor.cli.options import JsonOpt, open_data

if TYPE_CHECKING:
    from iqa_armor.pipeline.data import DataCheck, SizeSummary

data = typer.Typer(no_args_is_help=True, help="Look at datasets before they are used.")


@data.callback()
def _root() -> None:
    """Keep `check` a command of its own although it is the only one."""


@data.command()
def check(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="A dataset as --data takes it, e.g. csv:labels.csv or kadid10k:DIR.")
    ],
    json: JsonOpt = False,
) -> None:
    """Show what a dataset holds, read every image once, and see whether its labels rise with quality.

    Ends with exit code 5 where images or labels are missing or cannot be read. Labels that seem to fall with
    quality are a warning only.
    """
    from iqa_armor.pipeline.data import check_data

    with progress() as bars:
        found = check_data(open_data(spec, seed=0, progress=bars), progress=bars)
    if json:
        show_json(found.as_plain())
    else:
        _show(found)
    for warning in found.warnings:
        stderr.print(f"warning: {warning}", markup=False, soft_wrap=True)
    found.problems.raise_if_any("replace or remove these files, then run again")


def _show(found: DataCheck) -> None:
    stdout.print(found.spec, markup=False, soft_wrap=True)
    table = Table()
    table.add_column("split")
    for heading in ("images", "lowest score", "highest", "mean"):
        table.add_column(heading, justify="right")
    for summary in found.splits:
        numbers = (summary.low, summary.high, summary.mean)
        table.add_row(
            summary.split, str(summary.images), *("–" if number is None else f"{number:.4g}" for number in numbers)
        )
    stdout.print(table)
    stdout.print(f"labels: {found.labels or 'none'}", markup=False, soft_wrap=True)
    if found.direction is not None:
        stdout.print(
            f"direction: SROCC {found.direction.correlation:.3f} of the labels with {found.direction.measure} "
            f"on {found.direction.images} images",
            soft_wrap=True,
        )
    if found.sizes is not None:
        stdout.print(_sizes(found.sizes), soft_wrap=True)


def _sizes(sizes: SizeSummary) -> str:
    """Return the sizes as HEIGHTxWIDTH in words."""
    smallest, largest, commonest = ("{}x{}".format(*s) for s in (sizes.smallest, sizes.largest, sizes.commonest))
    if sizes.different == 1:
        return f"sizes: all {commonest}"
    return f"sizes: {smallest} to {largest}, {sizes.share:.0%} are {commonest} ({sizes.different} different)"
