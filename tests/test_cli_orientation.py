"""What this machine has, and the schemas of what is written and read."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from conftest import memory_dataset, small_network, write_images
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import iqa_armor
from iqa_armor import Preprocessing, QualityModel, save_model
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
    validator("evaluation").validate(
        json.loads(run("evaluate", *few, "--attack", "pgd1", "--epsilon", 4, "--ranking-epsilon", 1).stdout)
    )
    validator("certification").validate(json.loads(run("certify", *few, "--samples", 40).stdout))


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images, their labels, a model, that model hardened, and what harden wrote."""
    folder = tmp_path_factory.mktemp("outputs")
    write_images(folder / "images", count=24)
    save_model(QualityModel(small_network(), Preprocessing(size=(32, 40))), folder / "m.safetensors")
    made = ("-o", folder / "h.safetensors", "--epochs", 1, "--frontier", 2, "--json")
    done = run("harden", folder / "m.safetensors", "--data", f"csv:{folder}/images/labels.csv", *made)
    (folder / "harden.json").write_text(done.stdout)
    return folder


WORDS = {
    "harden --dry-run": "M DATA --dry-run",
    "inspect": "H",
    "train": "M DATA --epochs 1 -o DIR/t.safetensors",
    "train --dry-run": "M DATA --dry-run -o DIR/u.safetensors",
    "train-purifier": "M DATA --epochs 1 -o DIR/p.safetensors",
    "attack": "H DIR/images/000.png -o DIR/attacked",
    "attack --dry-run": "H DIR/images/000.png -o DIR/not --dry-run",
    "score": "H DIR/images/000.png",
    "score -o": "H DIR/images/000.png -o DIR/s.csv",
    "bench": "M --size 32x40 --repeats 1 --batch 1",
    "run": "DIR/p.toml",
    "info": "H",
    "card": "M",
    "doctor": "",
    "export": "H -o DIR/e.pt2",
    "data": "check csv:DIR/images/labels.csv",
    "harden --print-recipe": "M --print-recipe",
    "schema": "",
}


OWN = {"harden --print-recipe": "print-recipe", **dict.fromkeys(("train --dry-run", "attack --dry-run"), "dry-run")}


@pytest.mark.parametrize("case", WORDS)
def test_each_commands_output_fits_its_schema(case: str, hardened: Path) -> None:
    (hardened / "p.toml").write_text('[inspect]\nmodel = "m.safetensors"\n')
    command = case.split()[0]
    written = WORDS[case].replace("DATA", "--data csv:DIR/images/labels.csv").replace("DIR", str(hardened))
    models = {"M": str(hardened / "m.safetensors"), "H": str(hardened / "h.safetensors")}
    done = run(command, *(models.get(word, word) for word in written.split()), "--json")
    assert done.exit_code == 0, done.stderr
    name = OWN.get(case, command)
    validator(f"{name}-output").validate(json.loads(done.stdout))


def test_what_harden_writes_fits_its_schema(hardened: Path) -> None:
    found = json.loads((hardened / "harden.json").read_text())
    validator("harden-output").validate(found)
    assert list(validator("harden-output").iter_errors({**found, "mistyped": 1}))
    assert list(validator("harden-output").iter_errors({**found, "output": 1}))


def test_every_output_has_a_schema_and_a_name() -> None:
    names = run("schema").stdout.split()
    assert {f"{command}-output" for command in COMMANDS} <= set(names)
    assert {command for command in COMMANDS if recipe_kinds(command)} <= set(names)


def test_an_unknown_schema_is_refused() -> None:
    done = run("schema", "hardne")
    assert done.exit_code == 2
    assert "evaluation, evaluate-output" in done.stderr


@pytest.mark.parametrize(("times", "chosen"), [((1.0, 3.0), "aoc"), ((1.0, 1.1), "cayley")])
def test_auto_takes_a_cheaper_block_where_the_papers_is_slow(
    times: tuple[float, float], chosen: str, make_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardening, "slowdown", lambda *_: times)
    result = hardening.harden(make_model(), memory_dataset(40, 8), Recipe(backend="auto", epochs=0))
    assert result.recipe.backend == chosen
