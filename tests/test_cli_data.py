"""`iqa-armor data check`: what it shows, what it warns of, and when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from iqa_armor.cli import app
from iqa_armor.data.images import FileImages, read_image
from iqa_armor.data.specs import open_dataset
from iqa_armor.pipeline.data import Direction, measure_direction, sharpness


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", *(str(argument) for argument in arguments)], env={"COLUMNS": "200"})


def blurred(sigma: float, *, size: tuple[int, int] = (24, 32)) -> Image.Image:
    noise = np.random.default_rng(0).uniform(0, 255, (*size, 3))
    return Image.fromarray(gaussian_filter(noise, (sigma, sigma, 0)).astype(np.uint8))


def photographs(folder: Path, *, sign: int, count: int = 20) -> str:
    """Write images that get more blurred and labels that fall (+1) or rise (-1) with the blur; return the spec."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["image,mos"]
    for number in range(count):
        size = (40, 30) if number == 0 else (20, 16) if number == 1 else (24, 32)
        blurred(0.1 * number, size=size).save(folder / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,{50 - sign * number}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return f"csv:{folder}/labels.csv"


def kadid(folder: Path, *, flip: bool = False) -> str:
    """Write KADID-10k with noise of five strengths, whose sharpness rises as quality falls."""
    (folder / "images").mkdir(parents=True)
    rows = ["dist_img,ref_img,dmos,var"]
    for scene in range(1, 5):
        clean = np.random.default_rng(scene).uniform(60, 190, (24, 32, 3)).astype(np.uint8)
        Image.fromarray(clean).save(folder / "images" / f"I{scene:02d}.png")
        for level in range(1, 6):
            noise = np.random.default_rng(level).normal(0, 4 * level, clean.shape)
            name = f"I{scene:02d}_11_{level:02d}.png"
            Image.fromarray((clean + noise).clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
            rows.append(f"{name},I{scene:02d}.png,{level if flip else 6 - level},0.5")
    (folder / "dmos.csv").write_text("\n".join(rows))
    return f"kadid10k:{folder}"


def test_table_shows_counts_scores_sizes_and_direction(tmp_path: Path) -> None:
    done = run("check", photographs(tmp_path, sign=1))
    assert done.exit_code == 0, done.stderr
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [(row[0].strip(), int(row[1])) for row in rows] == [("training", 14), ("validation", 2), ("test", 4)]
    assert "labels: opinion scores as in the label file" in done.stdout
    assert "with sharpness on 20 images" in done.stdout
    assert "sizes: 20x16 to 40x30, 90% are 24x32 (3 different)" in done.stdout
    assert "warning" not in done.stderr
    assert "decoding images" in done.stderr


def test_json_has_every_figure_and_stands_alone_on_stdout(tmp_path: Path) -> None:
    spec = photographs(tmp_path, sign=1)
    done = run("check", spec, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "iqa-armor/data-check/1"
    assert found["data"]["spec"] == spec
    assert found["data"]["fingerprint"] == open_dataset(spec).fingerprint
    assert sum(split["images"] for split in found["splits"].values()) == 20
    assert min(split["low"] for split in found["splits"].values()) == 31
    assert max(split["high"] for split in found["splits"].values()) == 50
    assert sum(s["mean"] * s["images"] for s in found["splits"].values()) == pytest.approx(20 * 40.5)
    assert found["sizes"] == {
        "smallest": [20, 16],
        "largest": [40, 30],
        "commonest": [24, 32],
        "share": 0.9,
        "different": 3,
    }
    assert found["direction"]["measure"] == "sharpness"
    assert found["direction"]["correlation"] > 0.9
    assert found["direction"]["suspicious"] is False
    assert found["warnings"] == []
    assert found["problems"] == {}


def test_labels_that_fall_with_quality_are_a_warning_and_no_failure(tmp_path: Path) -> None:
    spec = photographs(tmp_path, sign=-1)
    done = run("check", spec)
    assert done.exit_code == 0
    assert "warning: labels fall as sharpness rises (SROCC -" in done.stderr
    found = json.loads(run("check", spec, "--json").stdout)
    assert found["direction"]["suspicious"] is True
    assert len(found["warnings"]) == 1


def test_reference_sets_are_judged_by_psnr_which_noise_does_not_mislead(tmp_path: Path) -> None:
    spec = kadid(tmp_path / "right")
    found = json.loads(run("check", spec, "--json").stdout)
    assert found["direction"]["measure"] == "PSNR to the reference"
    assert found["direction"]["correlation"] > 0.95
    assert found["data"]["labels"].startswith("dmos as published")
    turned = json.loads(run("check", kadid(tmp_path / "wrong", flip=True), "--json").stdout)
    assert turned["direction"]["correlation"] < -0.95
    assert "fall as PSNR to the reference rises" in turned["warnings"][0]


def test_references_of_another_size_are_passed_over(tmp_path: Path) -> None:
    spec = kadid(tmp_path)
    blurred(1, size=(10, 10)).save(tmp_path / "images" / "I01.png")
    found = json.loads(run("check", spec, "--json").stdout)
    assert found["direction"]["images"] == 15


def test_unreadable_images_are_listed_and_end_with_five(tmp_path: Path) -> None:
    spec = photographs(tmp_path, sign=1)
    (tmp_path / "03.png").write_bytes(b"no image")
    whole = (tmp_path / "04.png").read_bytes()
    (tmp_path / "04.png").write_bytes(whole[: len(whole) // 2])
    done = run("check", spec)
    assert done.exit_code == 5
    assert "unreadable images (2):" in done.stderr
    assert "03.png: not an image" in done.stderr
    assert "04.png" in done.stderr
    assert "sizes:" in done.stdout
    found = json.loads(run("check", spec, "--json").stdout)
    assert len(found["problems"]["unreadable images"]) == 2
    assert found["direction"]["images"] == 18


def test_a_long_list_of_unreadable_images_is_cut_short_on_stderr_but_whole_in_json(tmp_path: Path) -> None:
    spec = photographs(tmp_path, sign=1)
    for number in range(13):
        (tmp_path / f"{number:02d}.png").write_bytes(b"no image")
    done = run("check", spec, "--json")
    assert done.exit_code == 5
    assert "… and 3 more" in done.stderr
    assert len(json.loads(done.stdout)["problems"]["unreadable images"]) == 13


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("FOLDER", "missing images (1)"),
        ("kadid10k:absent", "KADID-10k is at"),
        ("live:absent", "LIVE release 2 is at"),
        ("spaq:absent", "SPAQ is at"),
        ("clive:absent", "LIVE In the Wild is at"),
        ("kadid:x", "did you mean kadid10k?"),
        ("live", "write live:PATH"),
    ],
)
def test_what_cannot_be_opened_ends_with_five(spec: str, message: str, tmp_path: Path) -> None:
    if spec == "FOLDER":
        spec = photographs(tmp_path, sign=1)
        (tmp_path / "07.png").unlink()
    done = run("check", spec)
    assert done.exit_code == 5
    assert message in done.stderr
    assert done.stdout == ""


def test_unlabelled_and_generated_images_have_no_direction(tmp_path: Path) -> None:
    photographs(tmp_path, sign=-1)
    done = run("check", f"folder:{tmp_path}")
    assert done.exit_code == 0
    assert "labels: none" in done.stdout
    assert "direction" not in done.stdout
    done = run("check", "synthetic:scenes=3,size=64x64")
    assert "labels: computed" in done.stdout
    found = json.loads(run("check", "synthetic:scenes=3,size=64x64", "--json").stdout)
    assert found["direction"] is None
    assert found["sizes"]["commonest"] == [64, 64]


def test_brackets_in_a_path_are_shown_as_they_are(tmp_path: Path) -> None:
    done = run("check", photographs(tmp_path / "[red]", sign=1))
    assert done.exit_code == 0
    assert "[red]/labels.csv" in done.stdout


def test_the_command_explains_itself() -> None:
    assert "check" in run("--help").stdout
    assert "--json" in run("check", "--help").stdout
    assert run().exit_code == 2
    assert run("check").exit_code == 2


def test_sharpness_of_a_single_bright_pixel_by_hand() -> None:
    image = torch.zeros(3, 5, 5, dtype=torch.uint8)
    image[:, 2, 2] = 100
    # The inner 3×3 Laplacian holds −400 once, 100 four times and 0 four times: mean 0, variance 200,000 / 9.
    torch.testing.assert_close(sharpness(image), torch.tensor(200_000 / 9))
    assert float(sharpness(torch.zeros(3, 2, 9, dtype=torch.uint8))) == 0


@pytest.mark.parametrize(
    ("correlation", "images", "suspicious"),
    [(-0.21, 200, True), (-0.19, 200, False), (-0.5, 20, True), (-0.4, 20, False), (-1, 9, False), (0.9, 200, False)],
)
def test_suspicion_needs_more_than_chance(correlation: float, images: int, suspicious: bool) -> None:
    assert Direction("sharpness", correlation, images).is_suspicious is suspicious


def test_at_most_two_hundred_images_are_measured(tmp_path: Path) -> None:
    spec = photographs(tmp_path, sign=1)
    rows = ["image,mos,split", *(f"{i:02d}.png,{i},{'test' if i % 2 else 'training'}" for i in range(20))]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    dataset = open_dataset(spec)
    images = dataset.splits["test"]
    many = images.select([i % 10 for i in range(500)])
    found = measure_direction(type(dataset)(spec, {"training": many, "test": images}))
    assert found is not None
    assert found.images == 200


def test_a_check_gives_the_size_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    blurred(1, size=(48, 64)).save(tmp_path / "turned.jpg", exif=exif)
    blurred(1, size=(48, 64)).save(tmp_path / "plain.jpg")
    files = FileImages((tmp_path / "turned.jpg", tmp_path / "plain.jpg"))
    assert files.check(0) == (64, 48) == read_image(files.paths[0]).shape[-2:]
    assert files.check(1) == (48, 64)
