"""`iqa-armor schema`: JSON schemas of what is written and read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from iqa_armor.cli.arguments import JsonOpt
from iqa_armor.cli.console import show_json
from iqa_armor.cli.options import options, recipe_kinds
from iqa_armor.errors import UsageError
from iqa_armor.settings import SettingsModel, flag_of


@options()
def schema(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="evaluation, certification, or a command, for its recipes.")
    ],
    json: JsonOpt = False,
) -> None:
    """Of evaluation and certification it is that of --json, of a command that of its --recipe; it is JSON anyway.

    Examples:
        iqa-armor schema evaluation
        iqa-armor schema harden
    """
    show_json(schema_of(name))


def schema_of(name: str) -> dict[str, Any]:
    """Return the JSON schema of an output or of a command's recipe; a UsageError if there is none of this name."""
    from iqa_armor.cli.commands import COMMANDS
    from iqa_armor.results.certification import Certification
    from iqa_armor.results.outcome import Document, Outcome

    outputs: dict[str, type[Document]] = {"evaluation": Outcome, "certification": Certification}
    if name in outputs:
        return outputs[name].model_json_schema(by_alias=True)
    kinds = recipe_kinds(name) if name in COMMANDS else []
    if not kinds:
        settled = [each for each in COMMANDS if recipe_kinds(each)]
        raise UsageError(f"there is no schema {name!r}; known are {', '.join([*outputs, *settled])}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Recipe of iqa-armor {name}",
        "type": "object",
        "properties": {key: value for kind in kinds for key, value in _properties(kind)},
        "additionalProperties": False,
    }


def _properties(kind: type[SettingsModel]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield settings as recipes write them: in 1/255, and with words where flags take words."""
    for key, said in kind.model_json_schema()["properties"].items():
        flag, default = flag_of(kind.model_fields[key]), kind.model_fields[key].default
        if get_origin(flag.kind) is Literal:
            said = {"description": said["description"], "enum": list(get_args(flag.kind))}
        yield key, said if default is None else {**said, "default": flag.written(default)}
