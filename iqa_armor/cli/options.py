"""Make a command's options from the settings that it takes."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.settings import Flag, OneOf, SettingsModel

S = TypeVar("S", bound=SettingsModel)
LIMITS = {"ge": "{:g} <= ", "gt": "{:g} < ", "le": " <= {:g}", "lt": " < {:g}"}
HUGE = 2**31


@dataclass(frozen=True)
class Given(Generic[S]):
    """Settings of a kind that flags gave, before they are validated; a command completes them from a file."""

    kind: type[S]
    values: Mapping[str, Any]

    def read(self, others: Mapping[str, Any] | None = None, *, source: str = "") -> S:
        """Return validated settings; a flag wins over what `others`, which come from `source`, say.

        Errors name flag and value; a word that a registry cannot read is a UsageError.
        """
        names = {name: _flags(name, self.kind.model_fields[name])[0].split("/")[0] for name in self.values}
        for name, value in self.values.items():
            try:
                for choice in _marks(self.kind.model_fields[name], OneOf):
                    choice.check_all(value)
            except ArmorError as error:
                raise UsageError(f"{names[name]}: {error}") from error
        return self.kind.read({**(others or {}), **self.values}, source=source, names=names)


def options(*, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of every parameter whose type is a `SettingsModel`, or `Given` of one.

    The command is called with the validated settings; its other parameters stay what they are. There is no option for
    settings in `without`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        kinds = {name: kind for name, hint in hints.items() if (kind := _settings_kind(hint)) is not None}
        parameters = {}
        for name, parameter in inspect.signature(command).parameters.items():
            made = _parameters(kinds[name], without) if name in kinds else [parameter.replace(annotation=hints[name])]
            parameters.update({one.name: one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in made})

        def run(**values: Any) -> None:
            own = {name: value for name, value in values.items() if name in hints}
            for name, kind in kinds.items():
                given = {key: values[key] for key in kind.model_fields if values.get(key) not in (None, [])}
                found = Given(kind, given)
                own[name] = found if get_origin(hints[name]) is Given else found.read()
            command(**own)

        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        return run

    return decorate


def _settings_kind(hint: Any) -> type[SettingsModel] | None:
    if get_origin(hint) is Given:
        (hint,) = get_args(hint)
    return hint if isinstance(hint, type) and issubclass(hint, SettingsModel) else None


def _parameters(kind: type[SettingsModel], without: Collection[str]) -> Iterator[inspect.Parameter]:
    for name, field in kind.model_fields.items():
        if name in without:
            continue
        flag = _flag(field)
        option = typer.Option(
            *_flags(name, field),
            help=_help(field, flag),
            metavar=flag.metavar or ("NAME" if _marks(field, OneOf) else None),
            rich_help_panel=flag.panel,
            show_default=False,
        )
        typed = Annotated[_written_type(field, flag) | None, option]  # type: ignore[valid-type]
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=typed)


def _marks(field: FieldInfo, kind: type[Any]) -> list[Any]:
    return [mark for mark in field.metadata if isinstance(mark, kind)]


def _flag(field: FieldInfo) -> Flag:
    return next(iter(_marks(field, Flag)), Flag())


def _flags(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Return the flags of a setting; a switch that is on by default gets one that turns it off."""
    plain = f"--{name.replace('_', '-')}"
    off = f"/--no-{plain[2:]}" if field.annotation is bool and field.default is True else ""
    return _flag(field).names or (plain + off,)


def _written_type(field: FieldInfo, flag: Flag) -> Any:
    """Return the type that Typer reads: the field's, but no None, and a list where a flag may be repeated."""
    if flag.kind is not None:
        return flag.kind
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is not tuple:
        return kind
    item = get_args(kind)[0]
    return list[get_args(item)[0] if get_origin(item) is Annotated else item]  # type: ignore[misc]


def _help(field: FieldInfo, flag: Flag) -> str:
    says = [str(field.description), *(choice.registry().summary() for choice in _marks(field, OneOf))]
    shown, limits = _default(field, flag), _limits(field)
    facts = [f"default: {shown}"] * bool(shown) + [limits] * bool(limits)
    return escape(" ".join(says) + (f" [{'; '.join(facts)}]" if facts else ""))


def _limits(field: FieldInfo) -> str:
    """Return the range of a number, such as "0 <= x < 1"."""
    found = {key: getattr(mark, key) for mark in field.metadata for key in LIMITS if hasattr(mark, key)}
    written = {key: LIMITS[key].format(bound) for key, bound in found.items() if bound < HUGE}
    low, high = written.get("ge") or written.get("gt", ""), written.get("le") or written.get("lt", "")
    return f"{low}x{high}" if written else ""


def _default(field: FieldInfo, flag: Flag) -> str:
    if flag.shown is not None:
        return flag.shown
    value = field.default
    if isinstance(value, bool):
        on, _, off = "".join(flag.names).partition("/")
        return (on if value else off).removeprefix("--") if off else "yes" if value else ""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
