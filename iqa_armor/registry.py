"""Named values that describe themselves, for reading a word, help texts and documents; and objects that users name."""

import difflib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, Generic, TypeVar

from iqa_armor.errors import ArmorError, UsageError, calling, failing

T = TypeVar("T")
Setting = int | float | str | bool
SWITCHES = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_SPEC = re.compile(r"(?P<source>.+?\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)(?P<rest>:.*)?", re.S)


def split_spec(word: str) -> tuple[str, str, str] | None:
    """Return (source, name, the rest behind a further colon) of a word that names an object to import, else None."""
    match = _SPEC.fullmatch(word)
    return None if match is None else (match["source"], match["name"], (match["rest"] or ":")[1:])


def import_object(source: str, name: str, *, kind: str, error: type[ArmorError] = UsageError) -> Any:
    """Return the attribute `name` of a user's own module, which is run; messages call it a `kind`.

    The source is a module, also one in the working folder, or a path that ends in .py. Raises `error` if it fails.
    """
    if source.endswith(".py"):
        module = _from_file(Path(source), kind, error)
    else:
        # A console script has its own folder first on the path; a user's package lies in the working folder.
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        with calling(f"module {source!r}", error, says="cannot be imported"):
            module = import_module(source)
    if not hasattr(module, name):
        raise error(f"{source} has no {kind} {name!r}")
    return getattr(module, name)


def _from_file(path: Path, kind: str, failure: type[ArmorError]) -> ModuleType:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise failure(f"there is no file {path} that could hold the {kind}")
    name = f"iqa_armor_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise failure(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:  # as for a script, so that it finds its neighbours, now and later
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        with calling(str(path), failure, says="cannot be run"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@dataclass(frozen=True)
class Entry:
    """What a registry says of one of its values before anything is imported."""

    home: str  # `module:NAME` of a value, or of what makes it of `settings`
    says: str  # one line for help texts and documents
    settings: Mapping[str, Any] | None = None  # None where NAME is the value itself, be it a class or a function

    def value(self) -> Any:
        found = resolve_name(self.home)
        return found if self.settings is None else found(**self.settings)


@dataclass(frozen=True, eq=False)
class Registry(Mapping[str, T], Generic[T]):
    """Values by name, imported when they are first asked for, and those that users add."""

    kind: str  # what messages call such a value
    entries: Mapping[str, Entry]  # the built-in values
    group: str = ""  # entry-point group under which installed packages offer further ones
    # `module:NAME` of, or itself, what turns an object that a user named, and its name, into a value or an ArmorError.
    accepts: str | Callable[[Any, str], T] = lambda value, name: value  # noqa: ARG005
    # Value of further names such as "pgd12", or None where a name is no such.
    pattern: Callable[[str], T | None] = lambda name: None  # noqa: ARG005
    also: str = ""  # what else may be named, for help texts: "pgdN for N steps"
    # Number that the written text of a value's setting is divided by.
    unit: Callable[[Any, str], float] = lambda value, key: 1.0  # noqa: ARG005
    error: type[ArmorError] = UsageError  # class of the errors
    _made: dict[str, T] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> T:
        if name not in self._made:
            self._made[name] = self.entries[name].value()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def knows(self, name: str) -> bool:
        """Return whether this is the name of a built-in value or of an installed plug-in; nothing is imported."""
        return name in self.entries or name in self._installed()

    def read(self, word: str) -> T:
        """Return the value that a word means.

        A word is a NAME, `package.module:NAME`, `path/file.py:NAME` or the name of an installed plug-in, each with
        `:key=value,…` behind it where the value is a frozen dataclass with such fields. Raises an error of the
        registry's class, if the name or a setting is unknown, or a value is not allowed.
        """
        value, settings = self.find(word)
        if not settings:
            return value
        target: Any = value
        changes = dict(self._setting(value, pair) for pair in settings.split(","))
        with failing(f"{self.kind} {word!r}", (ValueError,), error=self.error):
            return replace(target, **changes)  # type: ignore[no-any-return]

    def find(self, word: str) -> tuple[T, str]:
        """Return the value that a word names, and what stands behind the name and a colon; errors as in `read`."""
        name, _, rest = word.partition(":")
        if name in self.entries:
            return self[name], rest
        if (special := self.pattern(name)) is not None:
            return special, rest
        if name in self._installed():
            says = f"the installed {self.kind} {name!r} cannot be imported"
            with failing(says, (ImportError, AttributeError), error=self.error):
                found = self._installed()[name].load()
            return self._accepted(found, name), rest
        if (spec := split_spec(word)) is not None:
            return self._accepted(self._imported(*spec[:2]), word), spec[2]
        raise self.error(f"unknown {self.kind} {name!r}; {self._meant(name)}known are {self.summary()}")

    def summary(self) -> str:
        return ", ".join([*self.entries, *filter(None, [self.also])])

    def names(self) -> list[str]:
        return [*self.entries, *self._installed()]

    def lazy_attribute(self, name: str) -> Any:
        """Return the public class or function of this name; serves as `__getattr__` of the registry's package."""
        for entry in self.entries.values():
            if entry.home.partition(":")[2] == name:
                return resolve_name(entry.home)
        raise AttributeError(f"there is no {self.kind} class {name!r}")

    def _accepted(self, found: Any, name: str) -> T:
        accepts: Any = resolve_name(self.accepts) if isinstance(self.accepts, str) else self.accepts
        return accepts(found() if isinstance(found, type) and is_dataclass(found) else found, name)  # type: ignore[no-any-return]

    def _imported(self, source: str, attribute: str) -> Any:
        try:
            return import_object(source, attribute, kind=self.kind, error=self.error)
        except self.error as error:
            if "." in source:  # else it may be a name: "koniq:data" reads like a module too
                raise
            known = f"{self._meant(source)}known are {self.summary()}"
            raise self.error(f"unknown {self.kind} {source!r}; {known}; {error}") from error

    def _installed(self) -> Mapping[str, EntryPoint]:
        return _entry_points(self.group) if self.group else {}

    def _meant(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.names(), n=1)
        return f"did you mean {near[0]}? " if near else ""

    def _setting(self, value: Any, pair: str) -> tuple[str, Setting]:
        key, _, written = pair.partition("=")
        own = fields(value) if is_dataclass(value) and not isinstance(value, type) else ()
        types = {f.name: type(now) for f in own if f.init and isinstance(now := getattr(value, f.name), Setting)}
        if key not in types:
            allowed = f"known are {', '.join(types)}" if types else "it has none"
            raise self.error(f"unknown {self.kind} setting {key!r}; {allowed}")
        try:
            read: Setting = SWITCHES[written.lower()] if types[key] is bool else types[key](written)
        except (ValueError, KeyError, TypeError) as error:
            raise self.error(f"{self.kind} setting {key} must be {types[key].__name__}, got {written!r}") from error
        unit = self.unit(value, key)
        return key, read if unit == 1 or isinstance(read, str) else read / unit


@cache
def _entry_points(group: str) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
