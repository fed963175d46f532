"""What is wrong with a dataset, collected so that one error can say it all."""

from collections.abc import Iterable

from iqa_armor.errors import DataError

SHOWN = 10
MEND = "mend or remove these rows or files, then run again"


class Problems:
    """Faults of one dataset, the one named by `spec`, by kind, in the order they were met."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._entries: dict[str, list[str]] = {}

    def add(self, kind: str, entry: str) -> None:
        """Note one fault, e.g. `add("missing images", "a.jpg")`."""
        self._entries.setdefault(kind, []).append(entry)

    def extend(self, kind: str, entries: Iterable[str]) -> None:
        """Note several faults of one kind."""
        for entry in entries:
            self.add(kind, entry)

    def as_plain(self) -> dict[str, list[str]]:
        """Return every fault by kind, for JSON."""
        return {kind: list(entries) for kind, entries in self._entries.items()}

    def raise_if_any(self, advice: str = MEND) -> None:
        """Raise one DataError that lists every kind of fault, the first ten of each, if one was noted."""
        lines = []
        for kind, entries in self._entries.items():
            lines += [f"  {kind} ({len(entries)}):", *(f"    {entry}" for entry in entries[:SHOWN])]
            if len(entries) > SHOWN:
                lines.append(f"    … and {len(entries) - SHOWN} more")
        if lines:
            raise DataError("\n".join([f"{self.spec} cannot be used:", *lines, advice]))
