"""`train` and `harden` with the defences of other papers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import arch, run, spec  # noqa: F401

from iqa_armor.artifact.storage import read_metadata

QUICK = ("--epochs", 1, "--batch-size", 8, "--device", "cpu")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (("--defense", "nt", "--nt-weight", 0.01, "--nt-step", 0), {"defense": "nt", "nt_weight": 0.01, "nt_step": 0}),
        (("--defense", "at", "--at-epsilon", 2), {"defense": "at", "at_epsilon": 2}),
    ],
)
@pytest.mark.parametrize("command", ["train", "harden"])
def test_defense_is_stored_in_the_file(arch, spec, tmp_path: Path, command, options, settings) -> None:  # noqa: F811
    output = tmp_path / "out.safetensors"
    source = [arch]
    if command == "harden":
        base = tmp_path / "base.safetensors"
        assert run("train", arch, "-o", base, "--data", spec, *QUICK).exit_code == 0
        source = [base]
    done = run(command, *source, "-o", output, "--data", spec, *QUICK, *options, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["output"] == str(output)
    assert settings.items() <= read_metadata(output)["recipe"].items()


def test_recipe_file_names_the_defense(arch, spec, tmp_path: Path) -> None:  # noqa: F811
    base, recipe = tmp_path / "base.safetensors", tmp_path / "recipe.toml"
    assert run("train", arch, "-o", base, "--data", spec, *QUICK).exit_code == 0
    recipe.write_text('defense = "nt"\nposition = "none"\nprune = 0\nepochs = 1\n')
    done = run("harden", base, "--data", spec, "--recipe", recipe, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["recipe"]["defense"] == "nt"


@pytest.mark.parametrize("command", ["train", "harden"])
def test_unknown_defense_is_refused(command: str) -> None:
    done = run(command, "resnet18", "--defense", "trades")
    assert done.exit_code == 2
    assert "trades" in done.stderr
