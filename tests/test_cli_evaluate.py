"""`iqa-armor evaluate` at the command line: reports, interrupted runs, several processes."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_network
from forked import Forked
from typer.testing import CliRunner

from iqa_armor.cli import app

QUICK = (
    "--limit",
    "8",
    "--batch-size",
    "4",
    "--attack",
    "pgd1",
    "--attack",
    "pgd8",
    "--epsilon",
    "2,4",
    "--ranking-epsilon",
    "1",
)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Return state dicts of two networks."""
    paths = [tmp_path / "base.pt", tmp_path / "other.pt"]
    for seed, path in enumerate(paths):
        torch.save(small_network(seed).state_dict(), path)
    return paths


@pytest.fixture
def options(tmp_path: Path, image_folder: Path) -> list[str]:
    """Return what opens those networks and the data."""
    source = tmp_path / "small.py"
    source.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom conftest import small_network as make\n"
    )
    own = ["--arch", f"{source}:make", "--input-size", "32x40", "--data", f"csv:{image_folder / 'labels.csv'}"]
    return [*own, *QUICK]


def without_timing(path: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(path.read_text())
    for entry in plain["models"]:
        del entry["timing"]
        if entry["ratio_to_baseline"]:
            del entry["ratio_to_baseline"]["timing"]
    return plain


def test_report_is_one_file_with_pictures_and_checks(models: list[Path], options: list[str], tmp_path: Path) -> None:
    page, folder = tmp_path / "new" / "report.html", tmp_path / "kept"
    extra = ["--checks", "--check-images", 4, "--report", page, "-o", folder, "--attack", "stadv:iterations=1"]
    done = run("evaluate", *models, "--baseline", models[0], *options, *extra)
    assert done.exit_code == 0, done.output
    html = page.read_text()
    assert html.count("data:image/webp;base64,") == 2 * 3 * 3  # models × images × (clean, attacked, difference)
    assert "no black-box attack is stronger" in html
    assert "worst case" in html.lower()
    assert "stadv" in done.stdout
    outcome = json.loads((folder / "outcome.json").read_text())
    assert [len(entry["checks"]) for entry in outcome["models"]] == [8, 8]
    assert len(list(folder.glob("*-0.0.jsonl"))) == len(models)
    assert {p.name for p in folder.iterdir() if p.suffix != ".jsonl"} == {"identity.json", "outcome.json"}


def test_report_that_cannot_be_written_is_refused_at_once(
    models: list[Path], options: list[str], tmp_path: Path
) -> None:
    done = run("evaluate", models[0], *options, "--report", tmp_path)
    assert done.exit_code == 2
    assert "is a folder" in done.stderr
    done = run("evaluate", models[0], *options, "--report", models[0] / "report.html")
    assert done.exit_code == 1
    assert "cannot write" in done.stderr


def test_scores_of_every_image_are_written(models: list[Path], options: list[str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "scores.csv"
    done = run("evaluate", *models, *options[:-2], "--epsilon", 4, "--scores", file, "--json")
    assert done.exit_code == 0, done.output
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(models) * 8 * (1 + 2 + 6)  # clean, two attacks, the ranking's at six budgets
    (base, *_) = json.loads(done.stdout)["models"]
    mean = {
        attack: sum(float(row["score"]) for row in rows if row["model"] == "base" and row["attack"] == attack) / 8
        for attack in ("", "pgd8")
    }
    width = base["scale"]["high"] - base["scale"]["low"]
    assert base["attacks"]["pgd8"]["abs_gain"]["4"] == pytest.approx((mean["pgd8"] - mean[""]) / width)


def test_scores_that_cannot_be_written_are_refused_at_once(
    models: list[Path], options: list[str], tmp_path: Path
) -> None:
    done = run("evaluate", models[0], *options, "--scores", tmp_path / "scores.xlsx")
    assert done.exit_code == 2
    assert "known are .csv, .jsonl, .parquet" in " ".join(done.stderr.split())


def test_results_of_another_command_are_refused(models: list[Path], options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    assert run("evaluate", models[0], *options, "-o", folder).exit_code == 0
    done = run("evaluate", models[0], *options, "-o", folder, "--seed", 1)
    assert done.exit_code == 5
    assert "settings.seed differs" in " ".join(done.stderr.split())
    assert run("evaluate", models[0], *options, "-o", folder).exit_code == 0


def test_requirements_reach_checks_of_the_worst_case(models: list[Path], options: list[str]) -> None:
    done = run("evaluate", models[0], *options, "--require", "worst_case.abs_gain_auc <= -1")
    assert done.exit_code == 10
    assert "worst_case.abs_gain_auc <= -1 fails by" in " ".join(done.stderr.split())
    done = run("evaluate", models[0], *options, "--require", "attacks.stadv.abs_gain.1 <= 1")
    assert done.exit_code == 2


def test_killed_evaluation_gives_the_same_json_when_started_again(
    models: list[Path], options: list[str], tmp_path: Path
) -> None:
    whole, kept = tmp_path / "whole", tmp_path / "kept"
    command = ["evaluate", *map(str, models), "--baseline", str(models[0]), *options, "--attack", "pgd60"]
    assert run(*command, "-o", whole).exit_code == 0
    deadline = time.monotonic() + 60
    with Forked([*command, "-o", str(kept)]) as process:
        while not any(path.read_bytes().count(b"\n") for path in kept.glob("*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (kept / "outcome.json").exists()
    assert run(*command, "-o", kept).exit_code == 0
    assert without_timing(kept / "outcome.json") == without_timing(whole / "outcome.json")


def torchrun(words: list[str]) -> str:
    """Return what two processes have shown that PyTorch's launcher has started."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "iqa_armor"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = subprocess.run(
        [*launcher, *words], capture_output=True, text=True, check=False, env=environment, timeout=240
    )
    assert both.returncode == 0, both.stderr
    return both.stdout


def launched_alike(words: list[str]) -> str:
    """Return what two processes have shown that know of each other what PyTorch's launcher would tell them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    with ExitStack() as stack:
        both = [stack.enter_context(Forked(words, environment=rank)) for rank in ranks]
        said = [process.stderr.read() for process in both]
        shown = [process.stdout.read() for process in both]
        assert [process.wait() for process in both] == [0, 0], said
    return "".join(shown)


@pytest.mark.parametrize("launch", [launched_alike, pytest.param(torchrun, marks=pytest.mark.slow)])
def test_two_processes_find_what_one_does(
    launch: Callable[[list[str]], str], models: list[Path], options: list[str], tmp_path: Path
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    command = ["evaluate", *map(str, models), "--baseline", str(models[0]), *options, "--attack", "square:queries=5"]
    shown = launch([*command, "--device", "cpu", "-o", str(shared)])
    assert run(*command, "--device", "cpu", "-o", alone).exit_code == 0
    assert without_timing(shared / "outcome.json") == without_timing(alone / "outcome.json")
    assert sorted(path.name[-8:] for path in shared.glob("*.jsonl")) == [".0.jsonl"] * 2 + [".1.jsonl"] * 2
    assert shown.count("SROCC/PLCC") == 1


def test_scores_are_written_as_one_row_per_image_attack_and_budget(
    models: list[Path], options: list[str], tmp_path: Path
) -> None:
    table = tmp_path / "new" / "scores.csv"
    done = run("evaluate", models[0], *options, "--scores", table)
    assert done.exit_code == 0, done.output
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * (1 + 2 * 2 + 1)  # clean, two attacks at two budgets, the ranking's at one
    assert {(row["attack"], row["budget"]) for row in rows} == {
        ("", ""),
        *((attack, budget) for attack in ("pgd1", "pgd8") for budget in ("2", "4")),
        ("ranking", "1"),
    }
    assert all(float(row["score"]) for row in rows)
    lines = tmp_path / "scores.jsonl"
    assert run("evaluate", models[0], *options, "--scores", lines).exit_code == 0
    found = [json.loads(line)["score"] for line in lines.read_text().splitlines()]
    assert found == pytest.approx([float(row["score"]) for row in rows])


def test_a_table_of_another_kind_is_refused_at_once(models: list[Path], options: list[str], tmp_path: Path) -> None:
    done = run("evaluate", models[0], *options, "--scores", tmp_path / "scores.xlsx")
    assert done.exit_code == 2
    assert "scores.xlsx" in " ".join(done.stderr.split())
