"""`iqa-armor attack`: files, table, budgets in 8 bit, and refusals."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, contrast_images, small_network, write_images
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from iqa_armor.attacks.learned import UAP
from iqa_armor.attacks.pgd import PGD
from iqa_armor.cli import app
from iqa_armor.data.images import read_image
from iqa_armor.errors import ArmorError, ModelLoadError, UsageError
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.attack import AttackedImage, attack_images, build_attacks, name_files, to_levels
from iqa_armor.pipeline.load import load_model
from iqa_armor.pipeline.score import score_files

ARCH = """
from torch import nn
from iqa_armor import Preprocessing, QualityModel

def make():
    layers = []
    for channels, outputs in ((3, 16), (16, 24), (24, 32)):
        layers += [nn.Conv2d(channels, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1))
    return QualityModel(network, Preprocessing(size=(24, 31)))
"""

COLUMNS = [field.name for field in fields(AttackedImage)]


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> list[object]:
    """Return MODEL and the options that open it: images are resized, so prepared pixels are between levels."""
    (tmp_path / "mine.py").write_text(ARCH)
    torch.save(small_network().state_dict(), tmp_path / "model.pt")
    return [tmp_path / "model.pt", "--arch", f"{tmp_path / 'mine.py'}:make", "--device", "cpu"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = write_images(tmp_path / "photos", count=3)
    (folder / "labels.csv").unlink()
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "attacked"


def table(output: Path) -> list[dict[str, str]]:
    with (output / "attacks.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def opened(model: list[object]) -> QualityModel:
    return load_model(Path(str(model[0])), arch=str(model[2])).eval()


def test_attack_writes_images_that_score_as_the_table_says(model: list[object], photos: Path, output: Path) -> None:
    done = run("attack", *model, photos, "-o", output, "--attack", "pgd8", "--attack", "pgd:steps=3,epsilon=1.5")
    assert done.exit_code == 0, done.stderr
    assert f"wrote 6 images and attacks.csv to {output}" in done.stdout
    rows = table(output)
    assert list(rows[0]) == COLUMNS
    assert [row["attack"] for row in rows[:2]] == ["pgd8", "pgd:steps=3,epsilon=1.5"]
    assert sorted(path.name for path in output.iterdir()) == sorted([*(row["file"] for row in rows), "attacks.csv"])
    clean = json.loads(run("score", *model, photos, "--json").stdout)["images"]
    clean_scores = {entry["image"]: entry["score"] for entry in clean}
    attacked = json.loads(run("score", *model, output, "--json").stdout)["images"]
    attacked_scores = {Path(entry["image"]).name: entry["score"] for entry in attacked}
    for row in rows:
        assert float(row["clean_score"]) == clean_scores[row["image"]]
        assert float(row["attacked_score"]) == attacked_scores[row["file"]]
        assert float(row["gain"]) == float(row["attacked_score"]) - float(row["clean_score"])
        assert float(row["gain"]) > 0


def test_budget_holds_in_eight_bit_and_distances_are_those_of_the_files(
    model: list[object], photos: Path, output: Path
) -> None:
    done = run("attack", *model, photos, "-o", output, "--attack", "pgd8", "--epsilon", "2.5")
    assert done.exit_code == 0, done.stderr
    network = opened(model)
    for row in table(output):
        with Image.open(output / row["file"]) as stored:
            assert (stored.format, stored.mode, stored.size) == ("PNG", "RGB", (31, 24))
        clean = network.prepare(read_image(Path(row["image"]))).double()
        change = read_image(output / row["file"]).double() / 255 - clean
        assert float(change.abs().max()) * 255 <= 2.5 + 1e-4
        assert float(row["epsilon"]) == 2.5
        assert 1 < float(row["linf"]) <= 2.5
        assert float(row["linf"]) == pytest.approx(float(change.abs().max()) * 255, abs=1e-4)
        assert float(row["l2"]) == pytest.approx(float(change.norm()), rel=1e-4)
        assert float(row["psnr"]) == pytest.approx(-10 * math.log10(float(change.square().mean())), abs=1e-3)
        assert 0 < float(row["ssim"]) < 1


def test_direction_down_lowers_and_epsilon_bounds_what_words_leave_open(
    model: list[object], photos: Path, output: Path
) -> None:
    options = ("--direction", "down", "--epsilon", 6, "--attack", "pgd8", "--attack", "pgd4:epsilon=2")
    done = run("attack", *model, photos / "000.png", "-o", output, *options, "--json")
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["direction"] == -1
    assert shown["table"] == str(output / "attacks.csv")
    assert [entry["epsilon"] for entry in shown["images"]] == [6, 2]
    assert [entry["linf"] for entry in shown["images"]] == pytest.approx([6, 2], abs=1.01)
    assert all(entry["gain"] < 0 for entry in shown["images"])
    assert all(list(entry) == COLUMNS for entry in shown["images"])


def test_same_command_gives_the_same_bytes(model: list[object], photos: Path, output: Path, tmp_path: Path) -> None:
    for folder in (output, tmp_path / "again"):
        assert run("attack", *model, photos, "-o", folder, "--seed", 3).exit_code == 0
    for file in output.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_images_of_one_stem_do_not_overwrite_one_another(model: list[object], tmp_path: Path, output: Path) -> None:
    pixels, _ = contrast_images(4)
    places = ["a/x.png", "b/x.png", "b/X.bmp", "b/x-pgd1-2.png"]
    for place, image in zip(places, pixels, strict=True):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / place)
    done = run("attack", *model, *(tmp_path / place for place in places), "-o", output, "--attack", "pgd1")
    assert done.exit_code == 0, done.stderr
    files = [row["file"] for row in table(output)]
    assert files == ["x-pgd1.png", "x-pgd1-2.png", "X-pgd1-3.png", "x-pgd1-2-pgd1.png"]
    assert len({(output / file).read_bytes() for file in files}) == 4


def test_a_number_that_another_image_already_has_is_skipped() -> None:
    names = name_files([Path("a/x.png"), Path("a/x-b.png"), Path("b/x.png")], ["b", "b-2"])
    assert len({name.casefold() for name in names.values()}) == 6


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.png"], 5, "no such image: absent.png"),
        (["EMPTY"], 5, "no images in"),
        (["PHOTOS", "--epsilon", "-1"], 2, "--epsilon: input should be greater"),
        (["PHOTOS", "--epsilon", "nan"], 2, "--epsilon: input should be"),
        (["PHOTOS", "--attack", "pdg8"], 2, "unknown attack 'pdg8'"),
        (["PHOTOS", "--attack", "pgd:epsilon=-1"], 2, "epsilon in [0, inf)"),
        (["PHOTOS", "--direction", "left"], 2, "left"),
        (["BROKEN"], 5, "broken.png"),
    ],
)
def test_mistakes_have_a_message_and_leave_nothing(
    arguments: list[str], code: int, message: str, model: list[object], photos: Path, output: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.png").write_bytes((photos / "000.png").read_bytes()[:200])
    (tmp_path / "broken" / "a.png").write_bytes((photos / "000.png").read_bytes())
    places = {"PHOTOS": photos, "EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken"}
    done = run("attack", *model, *(places.get(argument, argument) for argument in arguments), "-o", output)
    assert done.exit_code == code, (done.stdout, done.stderr)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not output.exists()


def test_attack_explains_itself() -> None:
    done = CliRunner().invoke(app, ["attack", "--help-all"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    options = (
        "--attack",
        "--epsilon",
        "--direction",
        "--seed",
        "--output",
        "--overwrite",
        "--device",
        "--json",
        "--arch",
    )
    assert all(option in done.stdout for option in options)


def test_output_is_required(model: list[object], photos: Path) -> None:
    done = run("attack", *model, photos)
    assert done.exit_code == 2
    assert "--out" in done.stderr


def test_existing_files_stay_without_overwrite(model: list[object], photos: Path, output: Path) -> None:
    command = ("attack", *model, photos, "-o", output, "--attack", "pgd1")
    assert run(*command).exit_code == 0
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    refused = run(*command, "--epsilon", "0.6")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before
    assert run(*command, "--epsilon", "0.6", "--overwrite").exit_code == 0
    assert {file.name for file in output.iterdir()} == set(before)
    assert {file.name: file.read_bytes() for file in output.iterdir()} != before


def test_attacked_images_are_not_attacked_again(model: list[object], photos: Path) -> None:
    refused = run("attack", *model, photos, "-o", photos)
    assert refused.exit_code == 2
    assert "lies in the output folder" in refused.stderr.replace("\n", " ")
    assert run("attack", *model, photos, "-o", photos / "000.png").exit_code == 2


class _Fails:
    """An attack that gives the first image and fails on the second."""

    norm, epsilon, direction = "linf", 4 / 255, 1

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    def __call__(self, score: Any, images: Tensor, generator: torch.Generator) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return images


@pytest.mark.parametrize("error", [ArmorError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_new", [True, False])
def test_an_interrupted_run_leaves_nothing_half_written(
    error: BaseException, is_new: bool, model: list[object], photos: Path, output: Path
) -> None:
    if not is_new:
        output.mkdir()
        (output / "note.txt").write_text("mine")
    with pytest.raises(type(error)):
        attack_images(opened(model), [photos], output, attacks={"fails": _Fails(error)}, device=CPU)
    assert output.exists() is not is_new
    assert [file.name for file in output.rglob("*")] == ([] if is_new else ["note.txt"])


class _Bad:
    norm, epsilon, direction = "linf", 4 / 255, 1

    def __call__(self, score: Any, images: Tensor, generator: torch.Generator) -> Tensor:
        return images * torch.nan


def test_pixels_and_scores_that_are_not_finite_are_refused(model: list[object], photos: Path, output: Path) -> None:
    with pytest.raises(ArmorError, match=r"attack bad gave pixels that are not finite for .*000\.png"):
        attack_images(opened(model), [photos], output, attacks={"bad": _Bad()}, device=CPU)
    broken = QualityModel(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1)))
    nn.init.constant_(broken.network[2].bias, torch.nan)
    with pytest.raises(ModelLoadError, match=r"000\.png a score that is not finite"):
        attack_images(broken, [photos], output, attacks={"pgd": PGD()}, device=CPU)


def test_fitted_attacks_learn_from_the_given_images(model: list[object], photos: Path, output: Path) -> None:
    network = opened(model)
    done = attack_images(network, [photos], output, attacks={"uap": UAP()}, device=CPU)
    gains = [entry.gain for entry in done]
    assert sum(gains) > 0
    changes = [
        read_image(output / entry.file) / 255.0 - network.prepare(read_image(entry.image)).clamp(0, 1) for entry in done
    ]
    is_inner = torch.stack([network.prepare(read_image(entry.image)) for entry in done])
    is_inner = ((is_inner > 5 / 255) & (is_inner < 250 / 255)).all(0)
    assert float((changes[0] - changes[1])[is_inner].abs().max()) <= 1.01 / 255  # one pattern, rounded twice


def test_small_images_have_no_ssim(tmp_path: Path, output: Path) -> None:
    network = QualityModel(small_network(), Preprocessing(size=None)).eval()
    Image.new("RGB", (9, 8), (10, 200, 30)).save(tmp_path / "tiny.png")
    done = attack_images(network, [tmp_path / "tiny.png"], output, attacks={"pgd": PGD()}, device=CPU)
    assert math.isnan(done[0].ssim)
    assert table(output)[0]["ssim"] == ""


def test_result_does_not_depend_on_the_other_images(model: list[object], photos: Path, tmp_path: Path) -> None:
    network = opened(model)
    attacks = build_attacks(["pgd8"], epsilon=4 / 255, direction=1)
    both = attack_images(network, [photos], tmp_path / "both", attacks=attacks, device=CPU)
    alone = attack_images(network, [photos / "001.png"], tmp_path / "alone", attacks=attacks, device=CPU)
    assert alone[0] == both[1]
    assert score_files(network, [tmp_path / "alone" / alone[0].file], device=CPU)[0][1] == alone[0].attacked_score


def test_attacks_are_built_with_the_budget_their_words_leave_open() -> None:
    built = build_attacks(["pgd8", "pgd:epsilon=2"], epsilon=6 / 255, direction=-1)
    assert built == {
        "pgd8": PGD(steps=8, epsilon=6 / 255, direction=-1),
        "pgd:epsilon=2": PGD(epsilon=2 / 255, direction=-1),
    }
    with pytest.raises(UsageError, match=r"epsilon in \[0, inf\)"):
        build_attacks(["pgd8"], epsilon=-1, direction=1)


@pytest.mark.parametrize("epsilon", [0, 0.3, 0.5, 1, 2.5, 4])
def test_levels_are_the_nearest_ones_inside_the_ball(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(1, 3, 20, 20, generator=generator)
    clean[..., :10] = (clean[..., :10] * 255).round() / 255  # half of the pixels are on a level
    clean[0, 0, 0, :4] = torch.tensor([0, 1, 0.5 / 255, 254.5 / 255])
    noise = torch.rand(clean.shape, generator=generator) * 2 - 1
    attacked = (clean + epsilon / 255 * noise).clamp(0, 1)
    levels = to_levels(attacked, clean, epsilon / 255).double()
    middle = clean.double() * 255
    candidates = torch.arange(256, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    is_inside = (candidates - middle).abs() <= epsilon + 3e-5
    cost = (candidates - attacked.double() * 255).abs().where(is_inside, torch.inf)
    cost = cost.where(is_inside.any(0), (candidates - middle).abs())
    reached = cost.gather(0, levels.long().unsqueeze(0))[0]
    assert torch.allclose(reached, cost.amin(0), atol=1e-4)


def test_levels_of_an_attack_without_a_ball_are_the_nearest() -> None:
    attacked = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    levels = to_levels(attacked, torch.zeros_like(attacked), math.inf)
    assert torch.equal(levels, (attacked * 255).round().to(torch.uint8))
