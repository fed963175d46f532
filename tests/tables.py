"""The registries as tables in the documents, between markers; `python tests/tables.py` writes them anew."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from iqa_armor.attacks import ATTACKS
from iqa_armor.data import DATASETS
from iqa_armor.defenses.purifiers import PURIFIERS
from iqa_armor.defenses.smoothing import SMOOTHERS
from iqa_armor.export import FORMATS
from iqa_armor.ortho import BACKENDS
from iqa_armor.pruning import CRITERIA
from iqa_armor.registry import Registry, Setting
from iqa_armor.training import DEFENSES, LOSSES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TABLES: dict[str, Registry[Any]] = {
    "attacks": ATTACKS,
    "purifiers": PURIFIERS,
    "smoothers": SMOOTHERS,
    "criteria": CRITERIA,
    "datasets": DATASETS,
    "backends": BACKENDS,
    "losses": LOSSES,
    "training-defenses": DEFENSES,
    "formats": FORMATS,
}
MARKED = re.compile(r"<!-- ([a-z-]+) -->\n.*?<!-- /\1 -->", re.S)


@dataclass(frozen=True)
class Row:
    """A registry's value as documents show it: settings with their defaults, in the unit they are written in."""

    name: str
    says: str
    settings: dict[str, Setting] = field(default_factory=dict)

    def written(self) -> str:
        """Return the settings as words that name a value have them, each as code."""
        return " ".join(
            f"`{key}={value:g}`" if isinstance(value, float) else f"`{key}={value}`"
            for key, value in self.settings.items()
        )


def rows_of(registry: Registry[Any]) -> list[Row]:
    """Return name, description and settings of every built-in value."""
    return [
        Row(name, entry.says, {} if entry.settings is None else _settings(registry, registry[name]))
        for name, entry in registry.entries.items()
    ]


def as_markdown(registry: Registry[Any]) -> str:
    """Return the rows as a table for documents; settings have a column where a value has any."""
    rows = rows_of(registry)
    titles = [registry.kind, "what it is", "settings, with their defaults"]
    lines = [[f"`{row.name}`", row.says.removesuffix("."), row.written()] for row in rows]
    shown = 3 if any(row.settings for row in rows) else 2
    text = "".join(f"| {' | '.join(line[:shown])} |\n" for line in [titles, ["---"] * 3, *lines])
    return f"{text}\nAlso {registry.also}.\n" if registry.also else text


def _settings(registry: Registry[Any], value: Any) -> dict[str, Setting]:
    written: dict[str, Setting] = {}
    if not is_dataclass(value) or isinstance(value, type):
        return written
    for key, kept in ((item.name, getattr(value, item.name)) for item in fields(value) if item.init):
        if isinstance(kept, Setting):
            unit = registry.unit(value, key)
            written[key] = kept if unit == 1 or isinstance(kept, str) else float(f"{kept * unit:.12g}")
    return written


def rewritten(text: str) -> str:
    """Return a text whose marked tables are what the registries say."""
    return MARKED.sub(lambda found: f"<!-- {found[1]} -->\n{as_markdown(TABLES[found[1]])}<!-- /{found[1]} -->", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")
