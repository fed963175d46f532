"""What this machine has, and the schemas of what is written and read."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from conftest import memory_dataset, write_images
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import iqa_armor
from iqa_armor.cli import app
from iqa_armor.cli.commands import COMMANDS
from iqa_armor.cli.options import recipe_kinds
from iqa_armor.pipeline import harden as hardening
from iqa_armor.recipe import Recipe, shipped_recipes

MODEL = Path(iqa_armor.__file__).parent / "assets" / "demo.safetensors"
SETTLED = [name for name in COMMANDS if recipe_kinds(name)]


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def validator(name: str) -> Draft202012Validator:
    schema = json.loads(run("schema", name).stdout)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_doctor_says_what_there_is() -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert {"versions", "device", "processors", "extras", "disk", "data"} == set(found)
    assert found["disk"]["writable"] is True
    shown = run("doctor").stdout
    assert "torch" in shown
    assert "usable" in shown


@pytest.mark.parametrize("command", SETTLED)
def test_a_printed_recipe_fits_its_schema(command: str) -> None:
    words = {"attack": ["x", "x", "-o", "x"], "score": ["x", "x"], "demo": []}.get(command, ["x"])
    printed = run(command, *words, "--print-recipe")
    assert printed.exit_code == 0, printed.stderr
    schema = validator(command)
    schema.validate(tomllib.loads(printed.stdout))
    assert list(schema.iter_errors({"epocs": 1}))


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_fit_the_schema_of_harden(name: str) -> None:
    validator("harden").validate(tomllib.loads(shipped_recipes()[name].read_text()))


def test_outputs_fit_their_schemas(tmp_path: Path) -> None:
    labels = write_images(tmp_path / "images", count=8) / "labels.csv"
    few = (MODEL, "--data", f"csv:{labels}", "--limit", 2, "--device", "cpu", "--json")
    validator("evaluation").validate(json.loads(run("evaluate", *few, "--attack", "pgd1", "--epsilon", 4).stdout))
    validator("certification").validate(json.loads(run("certify", *few, "--samples", 40).stdout))


def test_an_unknown_schema_is_refused() -> None:
    done = run("schema", "hardne")
    assert done.exit_code == 2
    assert "evaluation, certification, harden" in done.stderr


@pytest.mark.parametrize(("times", "chosen"), [((1.0, 3.0), "aoc"), ((1.0, 1.1), "cayley")])
def test_auto_takes_a_cheaper_block_where_the_papers_is_slow(
    times: tuple[float, float], chosen: str, make_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardening, "slowdown", lambda *_: times)
    result = hardening.harden(make_model(), memory_dataset(40, 8), Recipe(backend="auto", epochs=0))
    assert result.recipe.backend == chosen
