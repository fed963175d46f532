"""`iqa-armor score`: many images, bad ones among them, rows as they come, and what scores mean."""

from __future__ import annotations

import csv
import json
import logging
import os
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, small_network, write_images
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from iqa_armor import cli
from iqa_armor.artifact.storage import save_artifact
from iqa_armor.cli import app
from iqa_armor.data.images import read_image
from iqa_armor.errors import DataError, UsageError
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.models.training_scores import RANKS, TrainingScores, rescaling
from iqa_armor.pipeline.load import load_model
from iqa_armor.pipeline.score import each_score, listed_images, score_files

FORMATS = ["csv", "jsonl", "parquet"]


def run(*words: object, stdin: str | None = None):
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    made = QualityModel(small_network(), Preprocessing(size=(32, 40)), scale=ScoreScale(-1, 1))
    made.training_scores = TrainingScores.of(torch.linspace(-1, 1, 50), torch.linspace(1, 5, 50), rising=True)
    save_artifact(made, path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 7 images, some deeper, one truncated, one empty, and a text."""
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        place = folder / "deep" / "er" if number > 4 else folder
        Image.fromarray(pixels).save(place / f"{number}.jpg")
    whole = (folder / "0.jpg").read_bytes()
    (folder / "2-bad.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "deep" / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def good(folder: Path) -> list[str]:
    files = sorted(folder.rglob("*.jpg"))
    return [str(file) for file in files if file.stem.isdecimal()]


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]
    return [{name: value if name == "image" else float(value) for name, value in row.items()} for row in found]


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    return len(found) == len(wanted) and all(close(*pair) for pair in zip(found, wanted, strict=True))


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        one[name] == (value if name == "image" else pytest.approx(value, rel=1e-5)) for name, value in other.items()
    )


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_bad_images_are_told_counted_and_lose_no_others(model: Path, photos: Path, kind: str, batch: int) -> None:
    out = photos.parent / f"s.{kind}"
    done = run("score", model, photos, "-o", out, "--batch-size", batch, "--device", "cpu")
    assert done.exit_code == 0, done.output
    rows = rows_of(out)
    assert [row["image"] for row in rows] == sorted(good(photos), key=lambda name: Path(name).parts)
    alone = score_files(load_model(model), [row["image"] for row in rows], device=CPU, batch_size=1)
    assert [row["score"] for row in rows] == pytest.approx([score for _, score in alone], rel=1e-5)
    assert "2-bad.jpg" in done.stderr
    assert "empty.png" in done.stderr
    assert "2 could not be scored" in done.stderr
    strict = run("score", model, photos, "-o", out, "--overwrite", "--strict", "--device", "cpu")
    assert strict.exit_code == 5
    assert "2 of 9 images" in strict.stderr
    assert same(rows_of(out), rows)
    assert sorted(file.name for file in out.parent.iterdir()) == sorted(["photos", out.name])


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_go_to_stdout_and_paths_come_from_a_list_or_stdin(model: Path, photos: Path, kind: str) -> None:
    names = [*good(photos), str(photos / "absent.jpg")]
    (photos.parent / "list").write_text("\n".join(names) + "\n\n", encoding="utf-8")
    words = ("score", model, "--format", kind, "--device", "cpu", "--from-file")
    found = run(*words, photos.parent / "list")
    assert found.exit_code == 0, found.output
    assert "absent.jpg" in found.stderr
    piped = run(*words, "-", stdin="\r\n".join(names))
    assert piped.stdout == found.stdout
    assert "so far" in piped.stderr
    lines = found.stdout.splitlines()
    read = (
        [line.split(",")[0] for line in lines[1:]] if kind == "csv" else [json.loads(line)["image"] for line in lines]
    )
    assert read == names[:-1]
    assert lines[0].startswith("image,score" if kind == "csv" else "{")


@pytest.mark.parametrize("pattern", ["*.jpg", "**/*.jpg", "deep/*/[5-6].jpg"])
def test_patterns_are_read_where_no_shell_has(model: Path, photos: Path, pattern: str) -> None:
    done = run("score", model, photos / pattern, "--json", "--device", "cpu")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    wanted = [str(file) for file in photos.glob(pattern)]
    assert sorted(entry["image"] for part in ("images", "failed") for entry in told[part]) == sorted(wanted)
    bracketed = photos / "a[1].jpg"
    bracketed.write_bytes((photos / "0.jpg").read_bytes())
    assert [entry["image"] for entry in json.loads(run("score", model, bracketed, "--json").stdout)["images"]] == [
        str(bracketed)
    ]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("torn", [0, 3])
def test_resume_scores_what_is_missing(model: Path, photos: Path, kind: str, torn: int) -> None:
    out = photos.parent / f"s.{kind}"
    words = ("score", model, photos, "-o", out, "--scale", "0-100", "--device", "cpu")
    assert run(*words).exit_code == 0
    whole = rows_of(out)
    assert run(*words).exit_code == 2
    if kind == "parquet":  # a killed run leaves lines beside no Parquet file
        lines = [json.dumps(row) + "\n" for row in whole]
        out.unlink()
        out = out.with_name(f".{out.name}.rows")
    else:
        lines = out.read_bytes().decode().splitlines(keepends=True)
    out.write_bytes(("".join(lines[:4]) + lines[4][: torn * 4]).encode())
    done = run(*words, "--resume")
    assert done.exit_code == 0, done.output
    assert f"{4 if kind != 'csv' else 3} were there already" in done.stderr
    assert same(rows_of(photos.parent / f"s.{kind}"), whole)
    (photos / "new.jpg").write_bytes((photos / "1.jpg").read_bytes())
    assert "scored 1 images" in run(*words, "--resume").stderr
    assert len(rows_of(photos.parent / f"s.{kind}")) == len(whole) + 1


def test_resume_refuses_what_another_model_or_scale_has_written(model: Path, photos: Path) -> None:
    out = photos.parent / "s.csv"
    words = (photos, "-o", out, "--resume", "--device", "cpu")
    other = photos.parent / "other.safetensors"
    save_artifact(QualityModel(small_network(3), Preprocessing(size=(32, 40))), other)
    assert run("score", model, *words).exit_code == 0
    before = out.read_bytes()
    for command, told in (
        (("score", other, *words), "another model"),
        (("score", model, *words, "--scale", "mos"), "has columns image, score and not"),
    ):
        done = run(*command)
        assert done.exit_code == 2, done.output
        assert told in done.stderr
    assert out.read_bytes() == before
    Path(good(photos)[-1]).write_bytes(b"no image any more")
    assert run("score", model, *words).exit_code == 0
    out.write_bytes(b"\0\1\2")
    assert run("score", model, *words).exit_code in (0, 2)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "name IMAGEs"),
        (["PHOTOS", "--format", "parquet"], 2, "-o OUT"),
        (["PHOTOS", "--resume"], 2, "-o OUT"),
        (["PHOTOS", "-o", "s.txt"], 2, ".csv, .jsonl or .parquet"),
        (["PHOTOS", "--json", "--format", "csv"], 2, "both write to stdout"),
        (["PHOTOS", "--batch-size", "0"], 2, "greater than or equal to 1"),
        (["EMPTY"], 5, "no images in"),
        (["--from-file", "absent"], 2, "absent cannot be read"),
        (["PHOTOS/notes.txt"], 5, "none of 1 images could be scored"),
        (["PHOTOS", "--scale", "mos", "--score-range", "0,1"], 0, ""),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    model: Path, photos: Path, words: list[str], code: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    (photos.parent / "EMPTY").mkdir()
    done = run("score", model, *(word.replace("PHOTOS", str(photos)) for word in words), "--device", "cpu")
    assert done.exit_code == code, done.output
    assert told in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.output


class Picky(nn.Module):
    """A network that fails on narrow images, and gives no number for black ones."""

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] < 8:
            raise ValueError("too narrow")
        means = images.mean((1, 2, 3))
        if len(means) > 1 and bool((means < 0.01).any()):
            raise ValueError("a dark one among them")
        return means / (means > 0)


def test_what_the_model_cannot_score_is_left_out_alone(tmp_path: Path) -> None:
    sizes = [(20, 20, 200), (4, 20, 200), (20, 20, 0), (20, 20, 100), (30, 20, 50)]
    for number, (width, height, level) in enumerate(sizes):
        Image.new("L", (width, height), level).save(tmp_path / f"{number}.png")
    model = QualityModel(Picky(), Preprocessing(size=None, mean=(0, 0, 0), std=(1, 1, 1)))
    found = list(each_score(model, sorted(tmp_path.iterdir()), device=CPU, batch_size=8))
    assert [one.error is None for one in found] == [True, False, False, True, True]
    assert found[3].score == pytest.approx(100 / 255)
    assert "narrow" in str(found[1].error)
    assert "not finite" in str(found[2].error)


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    Image.effect_noise((40, 32), 90).save(tmp_path / "a.png")
    model = QualityModel(small_network(), Preprocessing(size=(32, 40)))
    peaks, taken = [], 0

    def files(count: int):
        nonlocal taken
        for number in range(count):
            taken = number
            name = tmp_path / f"{number}.png"
            if not name.exists():
                os.link(tmp_path / "a.png", name)
            yield name

    for count in (50, 600):
        tracemalloc.start()
        for place, _ in enumerate(each_score(model, files(count), device=CPU, batch_size=4, workers=2)):
            assert taken - place < 16
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 800_000  # a list of what was decoded takes 9 MB


@pytest.mark.parametrize("rising", [True, False])
def test_scores_are_said_in_opinions_percentiles_and_hundredths(rising: bool) -> None:
    sign = 1 if rising else -1
    scores, mos = torch.linspace(-2, 2, 201), 3 + sign * torch.linspace(-2, 2, 201)
    mixed = torch.randperm(201, generator=torch.Generator().manual_seed(0))
    model = QualityModel(small_network(), scale=ScoreScale(-2, 2, rising))
    model.training_scores = TrainingScores.of(scores[mixed], mos[mixed], rising=rising)
    for score, share in ((-2.0, 0.0), (-1.0, 0.25), (0.5, 0.625), (2.0, 1.0), (9.0, 1.0), (-9.0, 0.0)):
        share = share if rising else 1 - share
        assert rescaling(model, "0-100")(score) == pytest.approx(100 * share)
        assert rescaling(model, "percentile")(score) == pytest.approx(100 * share, abs=1e-4)
        assert rescaling(model, "mos")(score) == pytest.approx(1 + 4 * share, abs=1e-4)


def test_opinions_never_fall_where_quality_rises() -> None:
    noise = torch.randn(300, generator=torch.Generator().manual_seed(1))
    known = TrainingScores.of(torch.arange(300.0), torch.arange(300.0) / 100 + noise, rising=True)
    assert len(known.opinions) == RANKS
    assert (np.diff(known.opinions) >= 0).all()
    assert known.opinions[50] == pytest.approx(1.5, abs=0.4)


def test_training_scores_stand_in_the_file_and_others_can_be_measured(model: Path, photos: Path) -> None:
    assert load_model(model).training_scores == TrainingScores.of(
        torch.linspace(-1, 1, 50), torch.linspace(1, 5, 50), rising=True
    )
    plain, spec = (
        photos.parent / "plain.safetensors",
        f"csv:{write_images(photos.parent / 'set', count=8) / 'labels.csv'}",
    )
    save_artifact(QualityModel(small_network(), Preprocessing(size=(32, 40))), plain)
    for scale in ("mos", "percentile", "0-100"):
        words = (photos / "0.jpg", "--scale", scale, "--json", "--device", "cpu")
        refused = run("score", plain, *words)
        assert refused.exit_code == 3, refused.output
        assert "--scale-data" in refused.stderr
        done = run("score", plain, *words, "--scale-data", spec)
        assert done.exit_code == 0, done.output
        assert 0 <= json.loads(done.stdout)["images"][0][scale] <= 100


@pytest.mark.parametrize(
    "exif", [b"MM\0*\0\0\0\x08\0\x09", b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\0\0\xff\xff\0\0"]
)
def test_remarks_on_metadata_are_not_shown(exif: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", exif=b"Exif\0\0" + exif)
    with pytest.warns(UserWarning, match="EXIF|Tag data|Truncated"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(cli, "app", lambda: read_image(tmp_path / "a.png"))
    monkeypatch.setattr(cli, "stop_on_signals", lambda: None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cli.main()
    assert told == []


def test_what_the_image_library_logs_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.tiff")
    file = (tmp_path / "a.tiff").read_bytes()
    samples = file.index(b"\x15\x01\x03\0")  # SamplesPerPixel
    (tmp_path / "a.tiff").write_bytes(file[: samples + 8] + b"\x83\0" + file[samples + 10 :])
    logger = logging.getLogger("PIL")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)  # to the handlers of pytest
    monkeypatch.setattr(cli, "app", lambda: read_image(tmp_path / "a.tiff"))
    monkeypatch.setattr(cli, "stop_on_signals", lambda: None)
    for shown, read in ((True, cli.app), (False, cli.main)):
        with pytest.raises(DataError):
            read()
        assert ("samples" in capsys.readouterr().err) == shown


@pytest.mark.parametrize("name", ["\x1b]0;title\x07.png", "\x9b31m.png", os.fsdecode(b"\xff.png")], ids=ascii)
def test_names_do_not_command_the_terminal(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save(name)
    Path("labels.csv").write_bytes(os.fsencode(f"image,mos\nno{name},1\n"))
    for words, code in (
        (("score", model, name), 0),
        (("score", model, f"no{name}"), 5),
        (("data", "check", "csv:labels.csv"), 5),
    ):
        told = run(*words)
        assert told.exit_code == code, told.output
        assert "\N{REPLACEMENT CHARACTER}" in told.output or "data" in words
        assert told.output.replace("\n", "").isprintable()


def test_an_error_that_quotes_a_long_file_is_cut_before_its_way_out(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("x" * 100_000 + "\n1\n", encoding="utf-8")
    done = run("data", "check", f"csv:{tmp_path}/labels.csv")
    assert done.exit_code == 5
    assert len(done.stderr) < 7000
    assert "labels.csv needs the columns image, mos" in done.stderr[:300]
    assert done.stderr.endswith("name the images alone: folder:DIR\n")


@pytest.mark.parametrize("content", [None, 2**33], ids=["device", "zeros"])
def test_a_list_without_lines_is_refused_at_once(content: int | None, model: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list"
    if content is None:
        listed.symlink_to("/dev/zero")
    else:
        listed.touch()
        os.truncate(listed, content)
    done = run("score", model, "--from-file", listed)
    assert done.exit_code == 2
    assert "list is no list of images" in done.stderr


def test_a_list_on_stdin_may_hold_names_that_are_no_text(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(os.fsdecode(bytes(tmp_path) + b"/\xff.png"))
    done = CliRunner().invoke(app, ["score", str(model), "--from-file", "-"], input=bytes(tmp_path) + b"/\xff.png\n")
    assert done.exit_code == 0, done.output


def test_what_a_shell_may_take_away_is_missed_in_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="the standard input is closed"):
        list(listed_images([], "-"))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = run("score", model, "a.png")
    assert done.exit_code == 2
    assert done.stderr == "error: the folder in which this was started is gone; change to another one\n"
