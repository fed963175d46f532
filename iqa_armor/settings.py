"""Settings declared once: default, range, description, and how a command line writes them. Imports no torch."""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pkgutil import resolve_name
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from iqa_armor.errors import ArmorError, UsageError

LEVELS = 255
HELP = tomllib.loads(resources.files("iqa_armor").joinpath("settings.toml").read_text("utf-8"))


class SettingsModel(BaseModel):
    """Frozen, validated settings; a value that is not allowed raises `error`, which names setting and value."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    error: ClassVar[type[ArmorError]] = UsageError
    panel: ClassVar[str] = "More options"  # heading under which help texts list settings that are declared here
    # Whether recipes hold these settings: those that decide what the result is, not how this machine gets it.
    in_recipes: ClassVar[bool] = True

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Describe the settings as settings.toml does, where the class itself does not."""
        for name, field in cls.model_fields.items():
            field.description = field.description or cls.told(name).get("says")
        cls.model_rebuild(force=True)

    @classmethod
    def told(cls, name: str) -> dict[str, str]:
        """Return what settings.toml says of a setting, and the metavar and the default that help texts show, if any."""
        found: dict[str, str] = {}
        for home in ("any", *(base.__name__ for base in reversed(cls.__mro__))):
            said = HELP.get(home, {}).get(name, {})
            found |= {"says": said} if isinstance(said, str) else said
        return found

    def __init__(self, **values: Any) -> None:
        unknown = next((name for name in values if name not in type(self).model_fields), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, type(self).model_fields, n=1, cutoff=0)
            raise self.error(f"there is no setting {unknown!r}; did you mean {near[0]!r}?")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise self.error(explain(error, type(self))) from error

    @classmethod
    def read(cls, values: Mapping[str, Any], *, source: str = "", names: Mapping[str, str] | None = None) -> Self:
        """Return validated settings, or raise an `error`, in which `source` is the origin of the values.

        `names` says what messages call settings, such as their flags; else they call them by their own names.
        """
        try:
            return cls(**values)
        except ArmorError as error:
            cause = error.__cause__
            told = explain(cause, cls, names) if isinstance(cause, ValidationError) else str(error)
            raise cls.error(f"{source}: {told}" if source else told) from error


class CallSettings(SettingsModel):
    """Settings of one call of a command, which no recipe holds: how this machine gets a result, not what it is."""

    in_recipes: ClassVar[bool] = False

    def words(self, *kinds: type[SettingsModel]) -> list[str]:
        """Return the options that say the same, for another command; only those of some of its base classes."""
        found: list[str] = []
        fields = {name: field for kind in kinds or (type(self),) for name, field in kind.model_fields.items()}
        for name, field in fields.items():
            value = getattr(self, name)
            if value in (None, False, "", ()):
                continue
            flag, shown = flags_of(name, field)[0], flag_of(field).written(value)
            if get_origin(written_type(field)) is list:
                found += [word for each in shown for word in (flag, str(each))]
            else:
                told = ",".join(map(str, shown)) if isinstance(shown, tuple) else str(shown)
                found += [flag] if value is True else [flag, told]
        return found


@dataclass(frozen=True)
class Flag:
    """How the command line writes a setting, where its name and type do not say it all."""

    names: tuple[str, ...] = ()  # its flags, such as "--prune-global/--prune-local", if not made of the setting's name
    kind: Any = None  # type of what is written, if not the setting's own; str where it reads a text itself
    panel: str | None = None  # heading under which help texts list it, if not its class's; "" for the usual ones
    written: Callable[[Any], Any] = lambda value: value  # what the command line calls a value of the setting


@dataclass(frozen=True)
class OneOf:
    """A word that a registry reads, which is named by `module:NAME` since it stands above the settings."""

    home: str
    also: tuple[str, ...] = ()  # further words, which mean something to who reads the setting
    is_checked: bool = True  # False where it may also be a chain of words, which another reads

    def registry(self) -> Any:
        return resolve_name(self.home)

    def check_all(self, words: Any) -> None:
        """Refuse a word, or several, that the registry cannot read; nothing is imported for a built-in name."""
        for word in words if isinstance(words, tuple | list) else (words,):
            if self.is_checked and isinstance(word, str) and word not in (*self.registry(), *self.also):
                self.registry().read(word)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def _known(self, value: Any) -> Any:
        try:
            self.check_all(value)
        except ArmorError as error:
            raise ValueError(str(error)) from error
        return value


def marks_of(field: FieldInfo, kind: type[Any]) -> list[Any]:
    return [mark for mark in field.metadata if isinstance(mark, kind)]


def flag_of(field: FieldInfo) -> Flag:
    return next(iter(marks_of(field, Flag)), Flag())


def flags_of(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Return the flags of a setting; a switch that is on by default gets one that turns it off."""
    plain = f"--{name.replace('_', '-')}"
    off = f"/--no-{plain[2:]}" if field.annotation is bool and field.default is True else ""
    return flag_of(field).names or (plain + off,)


def written_type(field: FieldInfo) -> Any:
    """Return the type of what a flag gives: the field's, but no None, and a list where the flag may be repeated."""
    kind = field.annotation if (flag := flag_of(field)).kind is None else flag.kind
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is not tuple:
        return kind
    item = get_args(kind)[0]
    return list[get_args(item)[0] if get_origin(item) is Annotated else item]  # type: ignore[misc]


def explain(error: ValidationError, kind: type[BaseModel], names: Mapping[str, str] | None = None) -> str:
    """Return what validation found wrong with which setting, in one line; `names` is as in `SettingsModel.read`."""
    told = []
    for fault in error.errors():
        message, setting = fault["msg"].removeprefix("Value error, "), str(fault["loc"][0]) if fault["loc"] else ""
        if fault["type"] == "literal_error":
            message = f"must be one of {', '.join(map(str, get_args(kind.model_fields[setting].annotation)))}"
        if setting:  # else settings do not go together
            called = (names or {}).get(setting, setting)
            message = f"{called}: {message[0].lower()}{message[1:]}, got {fault['input']!r}"
        told.append(message)
    return "; ".join(told)


def read_size(value: Any) -> Any:
    """Return (height, width) of a text such as 498x664; what is no text is returned as it is."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch("([1-9][0-9]{0,5})[xX]([1-9][0-9]{0,5})", value)
    if match is None:
        raise ValueError("takes HEIGHTxWIDTH, e.g. 498x664")
    return int(match[1]), int(match[2])


def read_numbers(value: Any, *, count: int | None = None) -> Any:
    """Return the numbers, `count` of them, of a text that separates them by commas; no text is returned as it is."""
    if not isinstance(value, str):
        return value
    wanted = f"takes {count or ''} numbers separated by commas".replace("  ", " ")
    try:
        found = tuple(float(part) for part in value.split(",")) if value.isascii() else ()
    except ValueError:
        raise ValueError(wanted) from None
    if not found or len(found) != (count or len(found)) or not all(map(math.isfinite, found)):
        raise ValueError(wanted)
    return found


def read_levels(value: Any) -> Any:
    """Return pixel values in [0, 1] of a text that writes them in 1/255; what is no text is returned as it is."""
    found = read_numbers(value)
    return tuple(number / LEVELS for number in found) if isinstance(value, str) else found


def write_levels(values: Any) -> list[float]:
    return [float(f"{value * LEVELS:.12g}") for value in values]


Limit = Annotated[int | None, Field(ge=1)]
Positive = Annotated[int, Field(gt=0)]
Size = Annotated[tuple[Positive, Positive], BeforeValidator(read_size)]
Pair = Annotated[tuple[float, float], BeforeValidator(partial(read_numbers, count=2))]
Triple = Annotated[tuple[float, float, float], BeforeValidator(partial(read_numbers, count=3))]
_LEVELS, _EPSILON = BeforeValidator(read_levels), Flag(("--epsilon",), kind=str, written=write_levels)
Budgets = Annotated[tuple[float, ...], _LEVELS, _EPSILON]
RankingBudgets = Annotated[tuple[float, ...], _LEVELS, replace(_EPSILON, names=("--ranking-epsilon",))]
Attacks = Annotated[tuple[Any, ...], OneOf("iqa_armor.attacks:ATTACKS"), Flag(("--attack",), kind=list[str])]
_READ = BeforeValidator(lambda value: {"up": 1, "down": -1}.get(value, value))
_WAY = Flag(kind=Literal["up", "down"], written=lambda value: {1: "up", -1: "down"}.get(value, value))
Direction = Annotated[Literal[1, -1], _READ, _WAY]
RankDirection = Annotated[Literal[1, -1, "rank"], _READ, replace(_WAY, kind=Literal["up", "down", "rank"])]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
