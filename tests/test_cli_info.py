"""Who made a file: the record in it, the card beside it, and the same bytes from the same command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ARCH, write_images
from typer.testing import CliRunner

import iqa_armor
from iqa_armor.cli import app
from iqa_armor.cli.commands.info import _show, _written
from iqa_armor.cli.console import _Screen
from iqa_armor.pipeline.card import sha256_of

MODEL = Path(iqa_armor.__file__).parent / "assets" / "demo.safetensors"


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("info")
    (folder / "mine.py").write_text(ARCH)
    labels = write_images(folder / "images", count=60) / "labels.csv"
    options = ("--data", f"csv:{labels}", "--epochs", 1, "--device", "cpu")
    for number in (1, 2):
        done = run("train", f"{folder}/mine.py:make", *options, "-o", folder / "base.safetensors", "--overwrite")
        assert done.exit_code == 0, done.stderr
        done = run("harden", folder / "base.safetensors", *options, "--overwrite")
        assert done.exit_code == 0, done.stderr
        for name in ("base", "base-hardened"):
            (folder / f"{name}.safetensors").with_suffix(f".{number}").write_bytes(
                (folder / f"{name}.safetensors").read_bytes()
            )
    return folder / "base-hardened.safetensors"


def test_the_same_command_gives_the_same_bytes(hardened: Path) -> None:
    for name in ("base", "base-hardened"):
        first, second = (hardened.with_name(f"{name}.{number}").read_bytes() for number in (1, 2))
        assert first == second


def test_info_says_who_made_a_file(hardened: Path) -> None:
    done = run("info", hardened, "--json")
    known = json.loads(done.stdout)
    assert known["schema"] == "iqa-armor/info/1"
    assert known["run"]["command"].startswith("iqa-armor harden ")
    assert known["run"]["source_sha256"] == sha256_of(hardened.with_name("base.safetensors"))
    assert known["provenance"]["data"]["spec"] == "csv:labels.csv"
    assert known["sha256"] == sha256_of(hardened)
    assert "seconds" not in json.dumps(known["provenance"])
    shown = run("info", hardened).stdout
    for text in ("date", "recipe.backend", "held-out SROCC, result", known["sha256"], "torch "):
        assert text in shown


def test_info_breaks_texts_beside_their_names_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"name": _written([{"name": "labels.csv", "share": 1 / 3}]), "versions": "torch 2.14.1, torchvision 0.29.1"}
    _show(told, to=_Screen(force_terminal=True, width=30))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "  name      name labels.csv,",
        "            share 0.3333",
        "  versions  torch 2.14.1,",
        "            torchvision 0.29.1",
    ]


def test_info_of_a_file_without_a_card_says_so() -> None:
    done = run("info", MODEL)
    assert done.exit_code == 0, done.stderr
    assert "no card stands beside it" in done.stdout


def test_card_has_figures_data_limits_and_licence(hardened: Path, tmp_path: Path) -> None:
    page, outcome = tmp_path / "README.md", tmp_path / "out.json"
    spec = f"csv:{hardened.parent / 'images' / 'labels.csv'}"
    few = ("--limit", 6, "--attack", "pgd1", "--epsilon", 4, "--device", "cpu", "--json")
    done = run("evaluate", hardened, "--baseline", hardened.with_name("base.safetensors"), "--data", spec, *few)
    outcome.write_text(done.stdout)
    assert run("card", hardened, "--results", outcome, "--licence", "MIT", "-o", page).exit_code == 0
    text = page.read_text()
    for part in (
        "license: MIT",
        "# base-hardened",
        "made from | base ",
        "## Limits",
        "base-hardened, pgd1 at 4 | gain",
    ):
        assert part in text
    assert "to base |" in text
    assert "held-out training images, with 95 % intervals" in text
    shown = run("card", hardened)
    assert shown.stdout.strip() == hardened.with_name("base-hardened.card.md").read_text().strip()
    assert f"next: iqa-armor export {hardened} -o base-hardened.onnx" in shown.stderr.replace("\n", "")
    refused = run("card", hardened, "--results", page)
    assert (refused.exit_code, str(page) in refused.stderr) == (5, True)
