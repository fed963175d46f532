"""What the site shows of the repository beside docs/: documents as pages, scripts as files, under their own paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = ("CONTRIBUTING.md", "CHANGELOG.md", "examples/**/*", "tests/benchmarks/*.py")


def on_files(files: Files, config: Any) -> Files:
    """Add the repository's documents and scripts."""
    for path in sorted(path for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()):
        if "__pycache__" not in path.parts:
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that leave docs/ into links of the site, in which the repository's paths begin where docs/ does."""
    if not (ROOT / "docs" / page.file.src_uri).exists():
        return markdown
    up = "../" * page.file.src_uri.count("/")
    return re.sub(rf"\]\({up}\.\./(?=[\w.])", f"]({up}", markdown)
