"""The worked examples of CONTRIBUTING.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
_FILE = re.compile(r"[Ii]n\n?\s?`(iqa_armor/[\w/]+\.py)`:\n\n```python\n(.*?)```", re.S)
_LINE = re.compile(r"In `([A-Z]+)` of `(iqa_armor/[\w/]+\.py)`[^:`]*:\n\n```\n(.*?)```", re.S)


@dataclass(frozen=True)
class Example:
    """What one section says to write: the text of new files by path, and (registry, path, entry)."""

    files: dict[str, str]
    lines: list[tuple[str, str, str]]

    @property
    def code(self) -> str:
        (code,) = self.files.values()
        return code


EXAMPLES = {
    title: Example(dict(_FILE.findall(body)), _LINE.findall(body))
    for title, body in (section.split("\n", 1) for section in TEXT.split("\n### ")[1:])
}


def write(title: str, folder: Path) -> Path:
    """Write an example's file under its own name into a folder, and return its path."""
    (path,) = EXAMPLES[title].files
    target = folder / Path(path).name
    target.write_text(EXAMPLES[title].code, encoding="utf-8")
    return target


def apply(folder: Path) -> None:
    """Write all examples into a folder that holds a copy of the package: new files, and entries first of all."""
    for example in EXAMPLES.values():
        for path, code in example.files.items():
            (folder / path).write_text(code, encoding="utf-8")
        for registry, path, entry in example.lines:
            text = (folder / path).read_text(encoding="utf-8")
            start = re.search(rf"^{registry}\b.*?[\[{{]\n", text, re.S | re.M)
            assert start is not None, (registry, path)
            indent = re.match(" *", text[start.end() :])[0]  # type: ignore[index]
            (folder / path).write_text(text[: start.end()] + indent + entry + text[start.end() :], encoding="utf-8")
