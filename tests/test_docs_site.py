"""The site of docs/ builds without a warning, and asks nothing of a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_every_page_has_a_place_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.md")}
    assert pages <= set(re.findall(r"\S+\.md", listed))


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    fetched = re.compile(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+")
    for page in pages:
        assert not fetched.findall(page.read_text(encoding="utf-8")), page
    style = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\([\"']?https?:|@import", style)


def test_docstrings_and_scripts_are_part_of_it(site: Path) -> None:
    reference = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("load_model", "harden", "evaluate", "RobustBlock", "EvaluationSettings", "ArmorError"):
        assert re.search(rf'id="iqa_armor\.[\w.]*\.{name}"', reference), name
    assert (site / "examples" / "nima.py").read_bytes() == (ROOT / "examples" / "nima.py").read_bytes()
