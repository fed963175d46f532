"""Help texts: the usual options on one screen, all of them with --help-all."""

import re
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from iqa_armor.cli.console import say, stdout

MORE = "More options"
EXAMPLES = "Examples:"
# What is asked for least often comes last.
LAST = (MORE, "Recipe", "Foreign model files")


class ArmorCommand(typer.core.TyperCommand):
    """A command whose help fits a screen; options under a heading of their own are shown by --help-all."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        show_help(ctx, everything=False)


def _show_everything(ctx: typer.Context, value: bool) -> None:
    if value:
        show_help(ctx, everything=True)
        raise typer.Exit


HELP_ALL = Annotated[
    bool, typer.Option("--help-all", is_eager=True, callback=_show_everything, help="Show all options and exit.")
]


def show_help(ctx: Any, *, everything: bool) -> None:
    """Show what a command does, how it is called, and its usual options or all."""
    command = ctx.command
    says, _, examples = (command.help or "").partition(EXAMPLES)
    arguments = [each for each in command.params if not each.opts[0].startswith("-")]
    wanted = [each for each in command.params if each.required and each not in arguments]
    called = ctx.command_path.replace("python -m iqa_armor", "iqa-armor")
    words = [*(each.metavar for each in arguments), *(f"{each.opts[0]} {each.metavar}" for each in wanted)]
    say("", " ".join(["Usage:", called, *words, "[OPTIONS]"]), "")
    stdout.print(*(" ".join(part.split()) for part in says.strip().split("\n\n")), sep="\n\n", markup=False)
    if examples:
        say("", EXAMPLES, *(f"  {line.strip()}" for line in examples.strip().splitlines()))
    say("")
    panels: dict[str, list[Any]] = {"": arguments, "Options": []}
    for each in (each for each in command.params if each not in arguments and (everything or each.name != "help_all")):
        panels.setdefault(each.rich_help_panel or "Options", []).append(each)
    shown = sorted(panels, key=lambda name: LAST.index(name) if name in LAST else -1) if everything else [*panels][:2]
    for name in shown:
        if name and panels[name]:
            say(f"{name}:")
        stdout.print(_table(panels[name], brief=not everything))
    if hidden := [name for name in panels if name not in shown]:
        number = sum(len(panels[name]) for name in hidden)
        stdout.print(f"  --help-all shows {number} more: {', '.join(hidden)}", markup=False)


def _table(parameters: Iterable[Any], *, brief: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in parameters:
        flags = (
            "" if each.opts[0][0] != "-" else ", ".join(each.opts) + "".join(f"/{off}" for off in each.secondary_opts)
        )
        is_switch = getattr(each, "is_flag", False)
        left = " ".join(
            filter(None, (f"  {flags}".rstrip(), "" if is_switch else f"{'' if flags else '  '}{each.metavar}"))
        )
        says = each.help + (f" \\[default: {each.default}]" if each.show_default and each.default else "")
        table.add_row(left, Text.from_markup(_brief(says) if brief else says))
    return table


def _brief(text: str) -> str:
    """Return the first sentence of a help text, and the default."""
    said = re.split(r"(?<=[.;])(?<!e\.g\.)\s", text.partition(" \\[")[0], maxsplit=1)[0].rstrip(".;")
    default = re.search(r"\\\[(default: [^;\]]+)", text)
    return f"{said} \\[{default[1]}]" if default else said
