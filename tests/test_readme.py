"""The commands of README and docs exist, with the options that are given to them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tables import MARKED, PAGES, TABLES, as_markdown, rewritten, rows_of
from typer.testing import CliRunner

import iqa_armor
from iqa_armor.cli import app

ROOT = Path(__file__).parents[1]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
TEXT = TEXTS["README.md"]
SHELL = [
    line.partition(" # ")[0].strip()
    for text in TEXTS.values()
    for block in re.findall(r"```sh\n(.*?)```", text, re.S)
    for line in block.replace("\\\n", " ").splitlines()
]


def test_opens_with_the_two_commands() -> None:
    assert SHELL[0] == "pip install . && iqa-armor demo"
    assert SHELL[1] == "pip install '.[test]' && pytest"
    assert TEXT.index("pip install") < 800


def test_the_gate_runs_what_the_readme_says() -> None:
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install --quiet '.[test]'" in gate
    assert "iqa-armor demo" in gate
    assert "\npytest" in gate


@pytest.mark.parametrize("line", sorted({line for line in SHELL if line.startswith("iqa-armor")}))
def test_command_and_its_options_exist(line: str) -> None:
    words = shlex.split(line.partition(">")[0] if '"' not in line else line)
    shown = CliRunner().invoke(
        app, [words[1], *words[2 : 3 if words[1] == "data" else 2], "--help-all"], env={"COLUMNS": "300"}
    )
    assert shown.exit_code == 0
    for option in (word for word in words[2:] if word.startswith("-")):
        assert option in shown.stdout, f"{words[1]} has no {option}"


@pytest.mark.parametrize("page", TEXTS)
def test_linked_files_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXTS[page]):
        file = target.partition("{")[0]
        assert file.startswith("https://arxiv.org/") or ((ROOT / page).parent / file).exists(), target


@pytest.mark.parametrize("page", TEXTS)
def test_python_names_exist(page: str) -> None:
    for block in re.findall(r"```python.*?\n(.*?)```", TEXTS[page], re.S):
        compile(block, page, "exec")
        for names in re.findall(r"from iqa_armor import (.+)", block):
            assert all(hasattr(iqa_armor, name.strip()) for name in names.split(","))


@pytest.mark.parametrize("page", TEXTS)
def test_tables_are_what_the_registries_say(page: str) -> None:
    assert rewritten(TEXTS[page]) == TEXTS[page], "run python tests/tables.py"


def test_every_marker_has_a_table_and_its_end() -> None:
    found = [name for text in TEXTS.values() for name in MARKED.findall(text)]
    assert set(found) == set(TABLES)
    assert sum(text.count("<!-- ") for text in TEXTS.values()) == 2 * len(found)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_says_something_else_is_written_anew(name: str) -> None:
    registry, marked = TABLES[name], "before\n<!-- {0} -->\n{1}<!-- /{0} -->\nafter\n"
    written = rewritten(marked.format(name, "| stale |\n"))
    assert written == marked.format(name, as_markdown(registry))
    assert all(f"| `{row.name}` | {row.says.removesuffix('.')} |" in written for row in rows_of(registry))
