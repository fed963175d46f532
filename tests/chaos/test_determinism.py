"""The determinism table of CONTRIBUTING.md: what two runs of one command give, and runs in other batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from disturbed import COMMANDS, copied, prepare, results

EXACT = ("train", "harden", "train-purifier", "export", "attack", "csv", "evaluate", "certify")
SLOW = ("export", "csv", "certify", "train-purifier")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("determinism") / "template"
    prepare(folder)
    return folder


def made(name: str, template: Path, folder: Path, *more: str) -> dict[str, Any]:
    with copied(template, folder):
        return results(name, *more)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in EXACT])
def test_two_runs_give_the_same_bits(name: str, template: Path, tmp_path: Path) -> None:
    one, two = (made(name, template, tmp_path / folder) for folder in ("one", "two"))
    assert set(COMMANDS[name][1]) - {"made.card.md", "made.html"} <= one.keys()
    assert one == two


def scores(rows: list[dict[str, str]]) -> dict[tuple[str, ...], float]:
    return {(row["image"], row["attack"], row["budget"]): float(row["score"]) for row in rows}


def test_other_batches_give_close_scores(template: Path, tmp_path: Path) -> None:
    one, four = (
        scores(made("csv", template, tmp_path / size, "--batch-size", size)["made.csv"]) for size in ("1", "4")
    )
    assert one == pytest.approx(four, abs=2e-5)  # a hundred-thousandth of the range, 2
