"""`--seeds`: one result for each seed, their mean and spread, and the gate on the mean."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from conftest import small_network, write_images
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from iqa_armor import Preprocessing, QualityModel, save_model
from iqa_armor.cli import app
from iqa_armor.cli.commands.schema import schema_of
from iqa_armor.results.requirements import mean_and_spread

QUICK = ("--limit", 6, "--attack", "pgd1", "--epsilon", 4, "--ranking", "none", "--device", "cpu")


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images, a model, and what two seeds of hardening wrote to h-{seed}.json."""
    made = tmp_path_factory.mktemp("seeds")
    write_images(made / "images", count=24)
    save_model(QualityModel(small_network(), Preprocessing(size=(32, 40))), made / "m.safetensors")
    done = run(*harden(made), "--seeds", 2)
    assert done.exit_code == 0, done.stderr
    (made / "harden.json").write_text(done.stdout)
    return made


def harden(folder: Path, epochs: int = 1) -> list[object]:
    data = ("--data", f"csv:{folder}/images/labels.csv", "--epochs", epochs, "--device", "cpu", "--json")
    return ["harden", folder / "m.safetensors", *data, "-o", folder / "h-{seed}.safetensors", "--seed", 3]


def test_harden_keeps_a_model_of_each_seed_and_tells_the_spread(folder: Path) -> None:
    told = json.loads((folder / "harden.json").read_text())
    Draft202012Validator(schema_of("harden-output")).validate(told)
    assert told["seeds"] == [3, 4]
    assert told["outputs"] == [str(folder / f"h-{seed}.safetensors") for seed in (3, 4)]
    records = [json.loads(run("info", path, "--json").stdout)["provenance"] for path in told["outputs"]]
    assert [each["seed"] for each in records] == [3, 4]
    found = [each["held_out_srocc"]["result"] for each in records]
    assert told["held_out_srocc"]["result"] == pytest.approx(statistics.fmean(found))
    assert told["spread"]["result"] == pytest.approx(statistics.stdev(found))


def test_a_model_of_a_seed_is_that_of_the_command_with_this_seed(folder: Path, tmp_path: Path) -> None:
    alone = [*harden(folder)[:-3], tmp_path / "alone.safetensors", "--seed", 4]
    assert run(*alone).exit_code == 0
    assert (tmp_path / "alone.safetensors").read_bytes() == (folder / "h-4.safetensors").read_bytes()


def test_harden_goes_on_with_the_seeds_that_are_missing(folder: Path) -> None:
    first, second = (folder / f"h-{seed}.safetensors" for seed in (3, 4))
    kept, stamp = second.read_bytes(), first.stat().st_mtime_ns
    assert run(*harden(folder), "--seeds", 2).exit_code == 2  # they are there already
    second.unlink()
    assert run(*harden(folder), "--seeds", 2, "--resume").exit_code == 0
    assert (second.read_bytes(), first.stat().st_mtime_ns) == (kept, stamp)
    other = run(*harden(folder, epochs=2), "--seeds", 2, "--resume")
    assert (other.exit_code, "another recipe" in other.stderr) == (2, True)


def test_several_seeds_need_several_files(folder: Path) -> None:
    done = run("harden", folder / "m.safetensors", "--seeds", 2, "-o", folder / "one.safetensors")
    assert done.exit_code == 2
    assert "one-{seed}.safetensors" in done.stderr.replace("\n", "")


def test_evaluate_tells_means_over_models_of_each_seed(folder: Path, tmp_path: Path) -> None:
    data = ("--data", f"csv:{folder}/images/labels.csv", *QUICK, "--seed", 3, "-o", tmp_path / "kept", "--json")
    words = ("evaluate", folder / "h-{seed}.safetensors", "--baseline", folder / "m.safetensors", *data)
    tables = ("--scores", tmp_path / "s-{seed}.csv")
    done = run(*words, *tables, "--seeds", 2, "--require", "attacks.pgd1.abs_gain.4 <= 9")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    alone = [json.loads((tmp_path / f"kept/seed-{seed}/outcome.json").read_text()) for seed in (3, 4)]
    gains = [each["models"][1]["attacks"]["pgd1"]["abs_gain"]["4"] for each in alone]
    assert gains[0] != gains[1]
    assert [each["name"] for each in told["models"]] == ["m", "h-{seed}"]
    assert told["models"][1]["attacks"]["pgd1"]["abs_gain"]["4"] == pytest.approx(statistics.fmean(gains))
    assert told["spread"]["h-{seed}"]["attacks.pgd1.abs_gain.4"] == pytest.approx(statistics.stdev(gains))
    assert told["spread"]["m"]["srocc"] == 0
    assert told == json.loads((tmp_path / "kept/outcome.json").read_text())
    assert all((tmp_path / f"s-{seed}.csv").is_file() for seed in (3, 4))
    between = sum(gains) / 2 + (max(gains) - min(gains)) / 4
    for bound, code in ((between, 0), (min(gains), 10)):
        gate = f"attacks.pgd1.abs_gain.4 <= {bound}"
        assert run(*words, "--seeds", 2, "--require", gate).exit_code == code
    assert run(*words, "--seeds", 2, "--scores", tmp_path / "one.csv").exit_code == 2


def test_means_are_null_where_a_run_has_none() -> None:
    runs = [{"a": 1.0, "b": {"c": 2.0, "d": None}}, {"a": 4.0, "b": {"c": None, "d": 1.0}}]
    mean, spread = mean_and_spread(runs)
    assert mean == {"a": 2.5, "b": {"c": None, "d": None}}
    assert spread == {"a": pytest.approx(4.5**0.5)}


def test_the_report_names_the_seeds(folder: Path, tmp_path: Path) -> None:
    data = ("--data", f"csv:{folder}/images/labels.csv", *QUICK)
    done = run("evaluate", folder / "m.safetensors", *data, "--seeds", 2, "--report", tmp_path / "r.html")
    assert done.exit_code == 0, done.stderr
    assert "Over seeds 0, 1" in done.stdout
    assert "Over seeds 0, 1" in (tmp_path / "r.html").read_text()
