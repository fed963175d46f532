"""The command line: parse, call, show, exit code."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from iqa_armor import __version__
from iqa_armor.cli.commands import COMMANDS
from iqa_armor.cli.console import COMMAND, show_messages, showing_results, stderr, stdout, stop_on_signals, told
from iqa_armor.errors import ArmorError, ModelLoadError, UsageError

MOST_TOLD = 6000  # characters of an error


class ArmorGroup(typer.core.TyperGroup):
    """The only place where an expected failure becomes a message and an exit code; imports only the chosen command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: typer.core.TyperCommand(name, help=says) for name, says in COMMANDS.items()}

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        COMMAND.set(("iqa-armor", *args))
        with _ending():
            try:
                Path.cwd()  # without one torch ends the process
            except OSError as error:
                raise UsageError("the folder in which this was started is gone; change to another one") from error
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _ending():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the chosen command in place of what only says what it does, with its name and its arguments."""
        name, said, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else said, rest


@contextmanager
def _ending() -> Iterator[None]:
    try:
        with showing_results():
            yield
    except (ArmorError, KeyboardInterrupt, MemoryError, RuntimeError, SystemExit) as error:
        # torch's OutOfMemoryError, which is not imported, is a RuntimeError.
        if isinstance(error, RuntimeError) and type(error).__name__ != "OutOfMemoryError":
            raise
        from rich.text import Text

        sentence, code = _told(error)
        if len(sentence) > MOST_TOLD:  # quotes what a stranger wrote; the way out stands at the end
            sentence = f"{sentence[: MOST_TOLD // 2]} […] {sentence[-MOST_TOLD // 2 :]}"
        stderr.print(Text.assemble(("error:", "red"), " ", sentence), soft_wrap=not stderr.is_terminal)
        raise typer.Exit(code) from error


def _told(error: BaseException) -> tuple[str, int]:
    if isinstance(error, ArmorError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return told(error)
    if isinstance(error, SystemExit):  # with any code, 0 too
        return "code of a file or package that this command ran ended it by exit(); have it return or raise", 1
    too_little = "there is not enough memory; take smaller batches or images, or another --device"
    return too_little, ModelLoadError.exit_code


def load_command(name: str) -> Any:
    from iqa_armor.cli.options import ArmorCommand

    module = name.replace("-", "_")
    found = getattr(import_module(f"iqa_armor.cli.commands.{module}"), module)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name, cls=ArmorCommand, help=f"{COMMANDS[name]}\n\n{found.__doc__ or ''}")(found)
    return typer.main.get_command(alone)


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


VERSION = typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")


@app.callback()
def _root(version: Annotated[bool, VERSION] = False) -> None:  # noqa: ARG001
    show_messages()


def main() -> None:
    stop_on_signals()
    # What Pillow remarks on metadata that it skips, and on what it refuses, has no image's name.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    app()
