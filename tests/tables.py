"""The registries as tables in the documents, between markers; `python tests/tables.py` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from iqa_armor.attacks import ATTACKS
from iqa_armor.data import DATASETS
from iqa_armor.defenses.purifiers import PURIFIERS
from iqa_armor.defenses.smoothing import SMOOTHERS
from iqa_armor.export import FORMATS
from iqa_armor.ortho import BACKENDS
from iqa_armor.pruning import CRITERIA
from iqa_armor.registry import Registry
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


def rewritten(text: str) -> str:
    """Return a text whose marked tables are what the registries say."""
    return MARKED.sub(lambda found: f"<!-- {found[1]} -->\n{TABLES[found[1]].as_markdown()}<!-- /{found[1]} -->", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")
