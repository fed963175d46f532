"""Settings of a command from a recipe, from --set and from flags, and where each comes from."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin

import typer

from iqa_armor.cli.console import say, show_if_json
from iqa_armor.errors import ArmorError, RecipeError, UsageError
from iqa_armor.recipe import read_recipe, shipped_recipes
from iqa_armor.settings import OneOf, SettingsModel, flag_of, flags_of, marks_of, write_levels, written_type

S = TypeVar("S", bound=SettingsModel)
RECIPE = f"A TOML or model file, or {', '.join(shipped_recipes())}; options given here win."
PANEL: Any = {"rich_help_panel": "Recipe"}
CHANGES = "Change one setting of the recipe. May be repeated."
PRINTED = "Show all settings and where each comes from, then stop."
RECIPE_HINTS = {
    "recipe": Annotated[str | None, typer.Option("--recipe", metavar="NAME|FILE", help=RECIPE)],
    "changes": Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=CHANGES, **PANEL)],
    "print_recipe": Annotated[bool, typer.Option("--print-recipe", help=PRINTED, **PANEL)],
}


class Sources:
    """What a recipe, --set and flags say of the settings of a command, before they are validated."""

    def __init__(self, kinds: Iterable[type[SettingsModel]], recipe: str | None, changes: Iterable[str]) -> None:
        self.kinds = tuple(kinds)
        self.recipe = recipe or ""
        self.of_recipe = self._named(recipe_values(recipe) if recipe else {}, source=f"{recipe}: ", error=RecipeError)
        self.of_changes = self._named(dict(map(_pair, changes)), source="--set: ", error=UsageError)
        self.origins: dict[str, str] = {}

    def read(self, kind: type[S], flags: Mapping[str, Any]) -> S:
        """Return validated settings; a flag wins over --set, which wins over the recipe; errors say where it stands."""
        fields = kind.model_fields
        of_recipes = fields.keys() if kind.in_recipes else set()
        changes = {name: value for name, value in self.of_changes.items() if name in of_recipes}
        given = {**changes, **flags}
        called = {name: flags_of(name, fields[name])[0].split("/")[0] for name in flags}
        names = {**{name: f"--set {name}" for name in changes}, **called}
        for name, value in given.items():
            try:
                for choice in marks_of(fields[name], OneOf):
                    choice.check_all(value)
            except ArmorError as error:
                raise UsageError(f"{names[name]}: {error}") from error
        kept = {name: value for name, value in self.of_recipe.items() if name in of_recipes and name not in given}
        try:
            kind.read(kept, source=self.recipe)
        except ArmorError as error:
            raise RecipeError(str(error)) from error
        if kind.in_recipes:
            self.origins |= {**dict.fromkeys(fields, "default"), **dict.fromkeys(kept, self.recipe), **names}
        return kind.read({**kept, **given}, names=names)

    def show(self, settings: Iterable[SettingsModel]) -> None:
        values: dict[str, Any] = {}
        for each in (each for each in settings if each.in_recipes):
            fields = type(each).model_fields.items()
            values |= {name: flag_of(field).written(getattr(each, name)) for name, field in fields}
        if show_if_json({"settings": values, "sources": self.origins}):
            return
        written = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
        lines = {name: "" if value == "null" else f"{name} = {value}" for name, value in written.items()}
        width = max(map(len, lines.values()))
        for name, line in lines.items():
            say(f"{line:{width}}  # {self.origins[name]}" if line else f"# {name} is not set")

    def _named(self, values: Mapping[str, Any], *, source: str, error: type[ArmorError]) -> dict[str, Any]:
        """Return values by setting, as a flag would give them; their names may be those of the flags."""
        known = {
            name: (name, field) for kind in self.kinds if kind.in_recipes for name, field in kind.model_fields.items()
        }
        flags = {flag.split("/")[0][2:].replace("-", "_"): each for each in known.values() for flag in flags_of(*each)}
        here = {name for kind in self.kinds if not kind.in_recipes for name in kind.model_fields}
        found: dict[str, Any] = {}
        for given, value in values.items():
            if given in here:
                raise error(f"{source}{given} is no part of a recipe; give --{given.replace('_', '-')} itself")
            entry = known.get(given) or flags.get(given)
            if entry is None:
                near = difflib.get_close_matches(given, known, n=1, cutoff=0)
                raise error(f"{source}there is no setting {given!r} here; did you mean {near[0]!r}?")
            name, field = entry
            if flag_of(field).written is write_levels:  # in the unit that users write
                found[name] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            else:
                is_one = get_origin(written_type(field)) is list and not isinstance(value, list)
                found[name] = [value] if is_one else value
        return found


def recipe_values(recipe: str) -> dict[str, Any]:
    """Return what a recipe, TOML or model file holds, unvalidated; a RecipeError or ModelLoadError if nothing."""
    if not recipe.endswith(".safetensors"):
        return read_recipe(recipe)
    from iqa_armor.artifact.storage import read_metadata

    stored = read_metadata(Path(recipe))["recipe"]
    if not isinstance(stored, dict) or not stored:
        raise RecipeError(f"{recipe} was made without settings, so there is no recipe in it")
    return stored


def _pair(text: str) -> tuple[str, Any]:
    """Return a setting and its value, which is read as TOML or else is text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes KEY=VALUE, got {text!r}")
    try:
        read = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        read = value.strip()
    return key.strip().replace("-", "_"), read
