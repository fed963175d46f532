"""The command line: parse, call, show, exit code."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from iqa_armor import __version__
from iqa_armor.cli.commands import COMMANDS, GROUPS
from iqa_armor.cli.console import show_messages, stderr, stdout
from iqa_armor.errors import ArmorError


class ArmorGroup(typer.core.TyperGroup):
    """The only place where an expected failure becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command, turning an ArmorError into an exit code."""
        try:
            return super().invoke(ctx)
        except ArmorError as error:
            stderr.print(f"[red]error:[/] {_escaped(error)}", soft_wrap=True)
            raise typer.Exit(error.exit_code) from error


def _escaped(error: ArmorError) -> str:
    from rich.markup import escape

    return escape(str(error))


app = typer.Typer(
    cls=ArmorGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Harden pretrained image-quality models against adversarial perturbations, and prove it with attacks. "
    "Exit codes: 0 ok, 2 usage, 3 model, 4 surgery, 5 data, 6 recipe, 10 a requirement does not hold, 1 any other "
    "expected failure.",
)


def _version(value: bool) -> None:
    if value:
        stdout.print(f"iqa-armor {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    show_messages()


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def main() -> None:
    """Run the command line."""
    app()
