"""Make a command's options from the settings that it takes; help texts: the usual ones on one screen, or all."""

import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from iqa_armor.cli.console import BEAT, JSON, QUIET, say, stdout
from iqa_armor.cli.recipes import RECIPE_HINTS, Sources
from iqa_armor.settings import CallSettings, Flag, OneOf, SettingsModel, flag_of, flags_of, marks_of, written_type

MORE = "More options"
EXAMPLES = "Examples:"
FIRST = ("output", "data")  # what nearly every call names
LAST = (MORE, "Recipe", "Foreign model files")  # what is asked for least often
LIMITS = {"ge": "{:g} <= ", "gt": "{:g} < ", "le": " <= {:g}", "lt": " < {:g}"}
HUGE = 2**31
WIDE = 22  # of a metavar in a help text
USUAL = ""  # panel of options that --help shows, too
KEYWORD = inspect.Parameter.KEYWORD_ONLY
METAVARS = {int: "N", float: "X", str: "TEXT"}


class ArmorCommand(typer.core.TyperCommand):
    """A command whose help fits a screen; options under a heading of their own are shown by --help-all."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        show_help(ctx, everything=False)


def _show_everything(ctx: typer.Context, value: bool) -> None:
    if value:
        show_help(ctx, everything=True)
        raise typer.Exit


HELP_ALL = typer.Option("--help-all", is_eager=True, callback=_show_everything, help="Show all options and exit.")


def show_help(ctx: Any, *, everything: bool) -> None:
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
    others = [each for each in command.params if each not in arguments and (everything or each.name != "help_all")]
    for each in sorted(others, key=lambda each: each.name not in FIRST):
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
        flags = [", ".join(each.opts) + "".join(f"/{off}" for off in each.secondary_opts)] * (each.opts[0][0] == "-")
        left = "  " + " ".join([*flags, *[str(each.metavar)] * (not getattr(each, "is_flag", False))])
        says = each.help + (f" \\[default: {each.default}]" if each.show_default and each.default else "")
        if brief:  # the first sentence, and the default
            default = re.search(r"\\\[(default: [^;\]]+)", says)
            said = re.split(r"(?<=[.;])(?<!e\.g\.)\s", says.partition(" \\[")[0], maxsplit=1)[0].rstrip(".;")
            says = f"{said} \\[{default[1]}]" if default else said
        table.add_row(left, Text.from_markup(says))
    return table


class Told(CallSettings):
    """How much every command says, and in which form; warnings and errors are always told."""

    quiet: Annotated[bool, Flag(("-q", "--quiet"))] = False
    verbose: Annotated[bool, Flag(("-v", "--verbose"))] = False
    is_json: Annotated[bool, Flag(("--json",), panel=USUAL)] = False

    def model_post_init(self, _: Any) -> None:
        JSON.set(self.is_json)
        if self.quiet or self.verbose:
            BEAT.set(QUIET if self.quiet else 5)
            logging.getLogger("iqa_armor").setLevel(logging.WARNING if self.quiet else logging.DEBUG)


def options(
    *, without: Collection[str] = (), usual: Collection[str] = ("device",), recipe: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options for every parameter whose type is a `SettingsModel`, and --recipe, by default `recipe`.

    There is none for settings in `without`; those in `usual` are shown by --help, the others by --help-all.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        classes = {name: hint for name, hint in hints.items() if isinstance(hint, type)}
        kinds: dict[str, Any] = {name: hint for name, hint in classes.items() if issubclass(hint, SettingsModel)}
        own = inspect.signature(command).parameters
        made = [one.replace(annotation=hints[name]) for name, one in own.items() if name not in kinds]
        if any(kind.in_recipes for kind in kinds.values()):
            hinted = RECIPE_HINTS.items()
            made += [inspect.Parameter(name, KEYWORD, default=None, annotation=hint) for name, hint in hinted]
        made += [one for kind in (*kinds.values(), Told) for one in _parameters(kind, without, usual)]
        made.append(inspect.Parameter("help_all", KEYWORD, default=False, annotation=Annotated[bool, HELP_ALL]))
        parameters = {one.name: one.replace(kind=KEYWORD) for one in made}

        def run(**values: Any) -> None:
            word, changes, shown = (values.pop(name, None) for name in RECIPE_HINTS)
            sources, found = Sources(kinds.values(), word or recipe, changes or ()), {}
            for name, kind in {"": Told, **kinds}.items():
                flags = {key: values[key] for key in kind.model_fields if values.get(key) not in (None, [])}
                found[name] = sources.read(kind, flags)
            del found[""]
            if shown:
                sources.show(found.values())
                return
            command(**{name: value for name, value in values.items() if name in hints} | found)

        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        run.recipe_kinds = [kind for kind in kinds.values() if kind.in_recipes]  # type: ignore[attr-defined]
        return run

    return decorate


def recipe_kinds(command: str) -> list[type[SettingsModel]]:
    module = command.replace("-", "_")
    return getattr(getattr(import_module(f"iqa_armor.cli.commands.{module}"), module), "recipe_kinds", [])


def _parameters(
    kind: type[SettingsModel], without: Collection[str], usual: Collection[str]
) -> Iterator[inspect.Parameter]:
    for name, field in kind.model_fields.items():
        if name in without:
            continue
        home: Any = next(base for base in reversed(kind.__mro__) if name in getattr(base, "model_fields", ()))
        flag, told = flag_of(field), kind.told(name)
        option = typer.Option(
            *flags_of(name, field),
            help=_help(field, told.get("shown")),
            metavar=told.get("metavar") or ("NAME" if marks_of(field, OneOf) else _metavar(field)),
            rich_help_panel=None if name in usual else (home.panel if flag.panel is None else flag.panel or None),
            show_default=False,
        )
        typed = Annotated[written_type(field) | None, option]  # type: ignore[valid-type]
        yield inspect.Parameter(name, KEYWORD, default=None, annotation=typed)


def _metavar(field: FieldInfo) -> str | None:
    kind = written_type(field)
    (kind,) = get_args(kind) if get_origin(kind) is list else (kind,)
    if choices := get_args(kind) if get_origin(kind) is Literal else ():
        return words if len(words := "|".join(choices)) <= WIDE else "WORD"
    return METAVARS.get(kind)


def _help(field: FieldInfo, default: str | None) -> str:
    says = [str(field.description)]
    if _metavar(field) == "WORD":
        says.append(f"One of {', '.join(get_args(written_type(field)))}.")
    says += [*(", ".join([choice.registry().summary(), *choice.also]) for choice in marks_of(field, OneOf))]
    limits = {key: getattr(mark, key) for mark in field.metadata for key in LIMITS if hasattr(mark, key)}
    written = {key: LIMITS[key].format(bound) for key, bound in limits.items() if bound < HUGE}
    low, high = written.get("ge") or written.get("gt", ""), written.get("le") or written.get("lt", "")
    shown = _default(field) if default is None else default
    facts = [f"default: {shown}"] * bool(shown) + [f"{low}x{high}"] * bool(written)
    return escape(" ".join(says) + (f" [{'; '.join(facts)}]" if facts else ""))


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, bool):
        on, _, off = "".join(flag_of(field).names).partition("/")
        return (on if value else off).removeprefix("--") if off else "yes" if value else ""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
