"""What this machine has, and the schemas of what is written and read."""

from __future__ import annotations

import json
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from conftest import ARCH, memory_dataset, small_network, write_images
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import iqa_armor
from iqa_armor import Preprocessing, QualityModel, load_model, save_model
from iqa_armor.artifact.storage import read_metadata
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


def test_files_that_a_model_comes_from_are_recorded(tmp_path: Path) -> None:
    labels, source = write_images(tmp_path / "images", count=24) / "labels.csv", tmp_path / "mine.py"
    source.write_text(ARCH)
    states = {"student": small_network(1).state_dict(), "teacher": small_network(2).state_dict()}
    torch.save(states, tmp_path / "m.pt")
    words = [tmp_path / "m.pt", "--arch", f"{source}:make", "--data", f"csv:{labels}", "--epochs", 0, "--json"]
    assert "choose with --weights-key" in run("harden", *words, "-o", tmp_path / "no.safetensors").stderr
    files = (tmp_path / "m.pt", source, labels)
    for key, seed in (("student", 1), ("teacher", 2)):
        out = tmp_path / f"{key}.safetensors"
        done = run("harden", *words, "--prune", 0, "--weights-key", key, "-o", out)
        assert done.exit_code == 0, done.stderr
        validator("harden-output").validate(json.loads(done.stdout))
        told = read_metadata(out)["provenance"]
        expected = [{"name": path.name, "sha256": sha256(path.read_bytes()).hexdigest()} for path in files]
        assert told["source"]["files"] == [{**expected[0], "key": key}, expected[1]]
        assert told["data"]["files"] == expected[2:]
        assert torch.equal(load_model(out).network.get_parameter("0.weight"), small_network(seed)[0].weight)
    trained = ("-o", tmp_path / "trained.safetensors", "--weights", tmp_path / "m.pt", "--weights-key", "student")
    done = run("train", f"{source}:make", *words[3:5], "--epochs", 1, *trained)
    assert done.exit_code == 0, done.stderr
    told = read_metadata(tmp_path / "trained.safetensors")["provenance"]["source"]["files"]
    assert [(file["name"], file.get("key")) for file in told] == [("m.pt", "student"), ("mine.py", None)]


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
