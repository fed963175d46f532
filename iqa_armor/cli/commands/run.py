"""`iqa-armor run`: several commands from one file, each only where something has changed."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iqa_armor.cli.arguments import Writing
from iqa_armor.cli.console import AGAIN, JSON, going_on, say, say_next, show_if_json, span, stderr
from iqa_armor.cli.options import options
from iqa_armor.errors import RecipeError
from iqa_armor.recipe import read_recipe

if TYPE_CHECKING:
    from iqa_armor.pipeline.steps import Step

WRITTEN = ("output", "report", "scores", "log_to", "log-to")


@options(without={"overwrite"})
def run(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE.toml", help="A table per command, in their order.")],
    writing: Writing,
    force: Annotated[bool, typer.Option("--force", help="Run every step, although nothing has changed.")] = False,
) -> None:
    """A table is named as its command, or has command = NAME; its keys are the command's arguments and options.

    Keys before the first table go to every command that has them. Commands run in the folder of the file and replace
    their outputs. The first that fails ends it, with its exit code; so a require of evaluate is a gate.

    Examples:
        iqa-armor run pipeline.toml
        iqa-armor run pipeline.toml --dry-run
    """
    from iqa_armor.pipeline.steps import SCHEMA, Pipeline

    if not pipeline.is_file():
        raise RecipeError(f"there is no pipeline file {pipeline}")
    steps = list(read_steps(read_recipe(pipeline), str(pipeline)))
    folder = pipeline.absolute().parent
    whole, found = Pipeline(steps, folder=folder, state=folder / f".{pipeline.stem}.run.json"), []
    with going_on(AGAIN, whole.state):
        for result in whole.run(force=force, dry=writing.dry_run, quiet=JSON.get()):
            found.append(result)
            took = f" ({span(result.seconds)})" if result.status == "done" else ""
            if result.status == "unchanged" and result.exit_code:
                took = " since its requirements did not hold (--force runs it again)"
            say(f"{result.name}: {result.status}{took}: {result.command}", to=stderr)
    show_if_json({"schema": SCHEMA, "steps": [vars(each) for each in found]})
    if found[-1].exit_code:
        raise typer.Exit(found[-1].exit_code)
    made = [name for step in steps for name in step.outputs if name.endswith(".safetensors")]
    if writing.dry_run or made:
        say_next(*(["run", pipeline] if writing.dry_run else ["card", folder / made[-1]]), to=stderr)


def read_steps(tables: Mapping[str, Any], source: str) -> Iterator[Step]:
    """Yield the steps of a pipeline; one that is no command, or has settings that its command has not, is refused."""
    from iqa_armor.data.specs import KONIQ10K_VARIABLE
    from iqa_armor.pipeline.steps import Step

    shared = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    if len(shared) == len(tables):
        raise RecipeError(f"{source} has no table; write one per command, such as [harden]")
    used: set[str] = set()
    for name, table in tables.items():
        if isinstance(table, dict):
            command, where = str(table.get("command", name)), f"{source}: [{name}]"
            parameters = _parameters(command, where)
            used |= {key for key in shared if _plain(key) in parameters}
            given = {key: value for key, value in shared.items() if _plain(key) in parameters}
            given |= {key: value for key, value in table.items() if key != "command"}
            words = _words(given, parameters, where)
            made = tuple(str(given[key]) for key in WRITTEN if key in given)
            resumes = command in ("train", "harden", "train-purifier") and "seeds" not in given
            # What a command takes from the environment where no dataset is given.
            takes_data = "data" in parameters and "data" not in map(_plain, given)
            reads = tuple(filter(None, [os.environ.get(KONIQ10K_VARIABLE, "").strip()])) if takes_data else ()
            yield Step(name, (command, *words), made, resumes=resumes, reads=reads)
    if unused := [key for key in shared if key not in used]:
        raise RecipeError(f"{source}: no command has the option {unused[0]!r}")


def _parameters(command: str, where: str) -> dict[str, Any]:
    from iqa_armor.cli import load_command
    from iqa_armor.cli.commands import COMMANDS

    if command not in COMMANDS or command in ("run", "data"):
        raise RecipeError(f"{where} is no command; known are {', '.join(COMMANDS)}")
    found = load_command(command).params
    flags = {_plain(flag): each for each in found for flag in each.opts if flag != "--output"}  # output is a file here
    return flags | {each.name: each for each in found}


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _words(given: Mapping[str, Any], parameters: Mapping[str, Any], where: str) -> list[str]:
    first, rest = [], []
    missing = [each.name for each in parameters.values() if each.required and each.name not in map(_plain, given)]
    for key, value in given.items():
        parameter = parameters.get(_plain(key))
        if parameter is None:
            near = difflib.get_close_matches(_plain(key), parameters, n=1) or missing
            near = near or difflib.get_close_matches(_plain(key), parameters, n=1, cutoff=0)
            raise RecipeError(f"{where}: there is no option {key!r}; did you mean {near[0]!r}?")
        if parameter.opts[0][0] != "-":
            first += [str(each) for each in (value if isinstance(value, list) else [value])]
        else:
            rest += _option(parameter, value)
    if missing:
        raise RecipeError(f"{where}: {missing[0]} is missing")
    if "output" in parameters and "output" not in given and not parameters["output"].required and "model" in parameters:
        raise RecipeError(f"{where}: output is missing; name it, so that later steps can")
    return [*first, *rest, *["--overwrite"] * ("overwrite" in parameters and "overwrite" not in given)]


def _option(parameter: Any, value: Any) -> list[str]:
    flag = parameter.opts[-1]
    if isinstance(value, bool) and parameter.is_flag:
        return [flag] if value else parameter.secondary_opts[:1]
    texts = [str(each) for each in (value if isinstance(value, list) else [value])]
    return [word for text in (texts if parameter.multiple else [",".join(texts)]) for word in (flag, text)]
