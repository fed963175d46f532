"""`evaluate`, `score` and `attack` with `--purify` and `--smooth`."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import contrast_images, small_network
from PIL import Image
from typer.testing import CliRunner

from iqa_armor.cli import app
from iqa_armor.results.outcome import Outcome

CPU = ("--device", "cpu")
QUICK = ("--limit", 4, "--batch-size", 4, "--attack", "pgd2", "--epsilon", 4, "--ranking-epsilon", 1, "--eot", 2, *CPU)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> list[object]:
    """Return MODEL and the options that open it."""
    torch.save(small_network().state_dict(), tmp_path / "base.pt")
    source = tmp_path / "small.py"
    source.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom conftest import small_network as make\n"
    )
    return [tmp_path / "base.pt", "--arch", f"{source}:make", "--input-size", "32x40", *CPU]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    pixels, _ = contrast_images(3)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        array = pixels[index].permute(1, 2, 0).numpy()
        Image.fromarray(array).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def data(image_folder: Path) -> list[object]:
    return ["--data", f"csv:{image_folder / 'labels.csv'}", *QUICK]


def scores(model: list[object], *options: object) -> dict[str, float]:
    done = run("score", *model, *options, "--json")
    assert done.exit_code == 0, done.stderr
    return {Path(entry["image"]).name: entry["score"] for entry in json.loads(done.stdout)["images"]}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "attacks.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_evaluate_sets_defenses_beside_the_model(model: list[object], data: list[object], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    words = ["--purify", "jpeg+flip", "--purify", "noise", "--smooth", "ms:samples=2"]
    done = run("evaluate", *model, *data, *words, "--report", page, "-o", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    outcome = Outcome.from_json((tmp_path / "kept" / "outcome.json").read_text())
    assert [entry.name for entry in outcome.models] == [
        "base",
        "base + jpeg + flip",
        "base + noise",
        "base + ms:samples=2",
        "base + jpeg + flip (unaware attack)",
        "base + noise (unaware attack)",
        "base + ms:samples=2 (unaware attack)",
    ]
    assert "Purifier" in done.stdout
    html = page.read_text()
    assert "Quality over gain score" in html
    assert "jpeg+flip: gain score" in html
    assert html.count("data:image/webp;base64,") == 7 * 3  # one image of every model, as there are many
    assert len(html) < 1_000_000


@pytest.mark.parametrize(("threat", "count"), [("adaptive", 2), ("bare", 2), ("both", 3)])
def test_evaluate_runs_the_threats_asked_for(model: list[object], data: list[object], threat: str, count: int) -> None:
    done = run("evaluate", *model, *data, "--purify", "flip", "--threat", threat, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["models"]
    assert len(found) == count
    assert {entry["threat"] for entry in found[1:]} == ({"adaptive", "bare"} if threat == "both" else {threat})


def test_requirement_holds_for_defenses_beside_the_baseline(model: list[object], data: list[object]) -> None:
    options = ["--purify", "flip", "--threat", "adaptive", "--baseline", model[0]]
    done = run("evaluate", *model, *data, *options, "--require", "clean_quality >= 2")
    assert done.exit_code == 10
    assert "base + flip" in " ".join(done.stderr.split())
    assert run("evaluate", *model, *data, *options, "--require", "clean_quality >= 0").exit_code == 0


WRONG = [
    (["--purify", "jpg"], "jpg"),
    (["--purify", "jpeg:qualty=3"], "qualty"),
    (["--purify", "jpeg:quality=300"], "300"),
    (["--purify", "flip+flip"], "twice"),
    (["--purify", "fcn"], "path"),
    (["--smooth", "mss"], "mss"),
]


@pytest.mark.parametrize(("options", "told"), [*WRONG, (["--purify", "flip", "--purify", "flip"], "repeated")])
def test_evaluate_refuses_wrong_defenses(
    model: list[object], data: list[object], options: list[str], told: str
) -> None:
    done = run("evaluate", *model, *data, *options)
    assert done.exit_code == 2, done.output
    assert told in done.stderr


@pytest.mark.parametrize(("options", "told"), [*WRONG, (["--purify", "flip", "--purify", "flip"], "twice")])
def test_score_and_attack_refuse_wrong_defenses(
    model: list[object], photos: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    for done in (run("score", *model, photos, *options), run("attack", *model, photos, "-o", tmp_path / "x", *options)):
        assert done.exit_code == 2, done.output
        assert told in done.stderr
    assert not (tmp_path / "x").exists()


def test_score_applies_purifiers_in_order(model: list[object], photos: Path) -> None:
    plain = scores(model, photos)
    chained = scores(model, photos, "--purify", "jpeg:quality=20", "--purify", "resize")
    assert chained == scores(model, photos, "--purify", "jpeg:quality=20+resize")
    assert chained != scores(model, photos, "--purify", "resize+jpeg:quality=20")
    assert all(chained[name] != plain[name] for name in plain)


@pytest.mark.parametrize("words", [["--purify", "noise"], ["--smooth", "ms:samples=3"], ["--purify", "noise+flip"]])
def test_score_of_one_image_does_not_depend_on_others(model: list[object], photos: Path, words: list[str]) -> None:
    together, reseeded = scores(model, photos, *words), scores(model, photos, *words, "--seed", 1)
    for name, value in together.items():
        assert scores(model, photos / name, *words) == {name: value}
        assert reseeded[name] != value


@pytest.mark.parametrize("words", [["--purify", "noise"], ["--purify", "jpeg"], ["--smooth", "ms:samples=3"]])
def test_attack_follows_the_threat(model: list[object], photos: Path, tmp_path: Path, words: list[str]) -> None:
    found = {}
    for threat in ("adaptive", "bare"):
        done = run("attack", *model, photos, "-o", tmp_path / threat, "--attack", "pgd4", *words, "--threat", threat)
        assert done.exit_code == 0, done.output
        found[threat] = rows(tmp_path / threat)
    (tmp_path / "plain").mkdir()
    assert run("attack", *model, photos, "-o", tmp_path / "plain", "--attack", "pgd4").exit_code == 0
    defended = scores(model, photos, *words)
    for aware, unaware, plain in zip(found["adaptive"], found["bare"], rows(tmp_path / "plain"), strict=True):
        pixels = [(tmp_path / where / plain["file"]).read_bytes() for where in ("adaptive", "bare", "plain")]
        assert pixels[1] == pixels[2] != pixels[0]  # unaware attacks are those on the bare model
        assert float(aware["clean_score"]) == float(unaware["clean_score"])
        assert float(aware["clean_score"]) == pytest.approx(defended[Path(aware["image"]).name], rel=1e-5)
        assert float(aware["attacked_score"]) > float(aware["clean_score"])


def test_attack_on_a_defense_does_not_depend_on_other_images(model: list[object], photos: Path, tmp_path: Path) -> None:
    options = ["--attack", "pgd2", "--purify", "noise"]
    assert run("attack", *model, photos, "-o", tmp_path / "all", *options).exit_code == 0
    assert run("attack", *model, photos / "2.png", "-o", tmp_path / "one", *options).exit_code == 0
    (alone,) = rows(tmp_path / "one")
    assert alone == rows(tmp_path / "all")[2]
