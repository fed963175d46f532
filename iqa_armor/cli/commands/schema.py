"""`iqa-armor schema`: JSON schemas of what is written and read."""

import json
from collections.abc import Iterator
from importlib import resources
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from iqa_armor.cli.commands import COMMANDS
from iqa_armor.cli.console import say, show_if_json, show_json
from iqa_armor.cli.options import options, recipe_kinds
from iqa_armor.errors import UsageError
from iqa_armor.settings import SettingsModel, flag_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAME = typer.Argument(metavar="NAME", help="COMMAND, for its recipes; COMMAND-output, for its --json.")


@options()
def schema(name: Annotated[str, NAME] = "") -> None:
    """Without NAME, all names. dry-run-output and print-recipe-output are what these options write with --json.

    Examples:
        iqa-armor schema harden
        iqa-armor schema evaluate-output
    """
    if name:
        show_json(schema_of(name))
    elif not show_if_json({"names": schema_names()}):
        say(*schema_names())


def schema_names() -> list[str]:
    return [*filter(recipe_kinds, COMMANDS), *_outputs()]


def schema_of(name: str) -> dict[str, Any]:
    """Return the JSON schema of an output or of a command's recipe; a UsageError if there is none of this name."""
    if name not in schema_names():
        raise UsageError(f"there is no schema {name!r}; known are {', '.join(schema_names())}")
    if name in (outputs := _outputs()):
        return {"$schema": DIALECT, "title": f"iqa-armor: {name}", **outputs[name]}
    properties = {key: value for kind in recipe_kinds(name) for key, value in _properties(kind)}
    facts = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$schema": DIALECT, "title": f"Recipe of iqa-armor {name}", **facts}


def _outputs() -> dict[str, dict[str, Any]]:
    from iqa_armor.results.outcome import Certification, Outcome

    evaluated, certified = (kind.model_json_schema(by_alias=True) for kind in (Outcome, Certification))
    found = dict.fromkeys(("evaluation", "evaluate-output", "demo-output"), evaluated)
    found |= dict.fromkeys(("certification", "certify-output"), certified)
    told = json.loads(resources.files("iqa_armor.cli").joinpath("outputs.json").read_text(encoding="utf-8"))
    return found | {f"{name}-output": {**one, "$defs": told["$defs"]} for name, one in told["outputs"].items()}


def _properties(kind: type[SettingsModel]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield settings as recipes write them: in 1/255, and with words where flags take words."""
    for key, said in kind.model_json_schema()["properties"].items():
        flag, default = flag_of(kind.model_fields[key]), kind.model_fields[key].default
        if get_origin(flag.kind) is Literal:
            said = {"description": said["description"], "enum": list(get_args(flag.kind))}
        yield key, said if default is None else {**said, "default": flag.written(default)}
