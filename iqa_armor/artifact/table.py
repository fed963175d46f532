"""What a stored graph may hold, by name, and the way back."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


class Table(Mapping[str, T]):
    """Entries by name; torchvision takes a second to import, so its own are looked up where one is asked for.

    Args:
        entries: What needs no torchvision.
        part: Name of the table in `artifact.vision` that holds the others.
        subject: Returns the layer class or function that an entry stands for.
    """

    def __init__(self, entries: Mapping[str, T], part: str, subject: Callable[[T], object]) -> None:
        self._entries, self._part, self._subject = entries, part, subject

    @cached_property
    def _vision(self) -> dict[str, T]:
        found: dict[str, T] = getattr(import_module("iqa_armor.artifact.vision"), self._part)
        return found

    @cached_property
    def _names(self) -> dict[object, str]:
        return {self._subject(entry): name for name, entry in self._entries.items()}

    def __getitem__(self, name: str) -> T:
        return self._vision[name] if name.startswith("torchvision.") else self._entries[name]

    def __iter__(self) -> Iterator[str]:
        yield from (*self._entries, *self._vision)

    def __len__(self) -> int:
        return len(self._entries) + len(self._vision)

    def name_of(self, subject: Any) -> str | None:
        """Return the name of a layer class or function, None for one that cannot be stored."""
        if str(getattr(subject, "__module__", "")).startswith("torchvision."):
            return next((name for name, entry in self._vision.items() if self._subject(entry) is subject), None)
        return self._names.get(subject)
