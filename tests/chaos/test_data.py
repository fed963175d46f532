"""Images that vanish or change under a running command, two writers in one folder, and clocks that jump."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from disturbed import call, copied, prepare, put_old_files, require_sentence, weights
from PIL import Image, ImageOps
from typer.testing import CliRunner

from iqa_armor.cli import app
from iqa_armor.cli.console import Bars
from iqa_armor.data import prepared
from iqa_armor.data.images import FileImages
from iqa_armor.errors import DataError
from iqa_armor.files import staging, write_whole


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "template"
    prepare(folder)
    return folder


def remove(file: Path) -> None:
    file.unlink(missing_ok=True)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


def invert(file: Path) -> None:
    with Image.open(file) as image:
        ImageOps.invert(image).save(file)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("change", [remove, cut_short, invert])
def test_images_that_do_not_stay_as_they_were(
    change, workers: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Kept in memory they would not be read again.
    defaults = {**prepared.load_prepared.__kwdefaults__, "memory_limit": 0}
    monkeypatch.setattr(prepared.load_prepared, "__kwdefaults__", defaults)
    monkeypatch.setattr("iqa_armor.training.images.worker_count", lambda images: workers)

    def tell(self: Bars, task: str, done: int, total: int, detail: str = "") -> None:
        if task == "fine-tuning":
            for file in Path("images").glob("*.png"):
                change(file)

    with copied(template, tmp_path / "here"):
        before = put_old_files("train")
        monkeypatch.setattr(Bars, "__call__", tell)
        done = call("train")
        require_sentence(done, 5, ".png")
        assert done.stderr.strip().splitlines()[-1].startswith("error:")
        assert {file: file.read_bytes() for file in before} == before


def test_a_file_that_changes_with_its_time_set_back_is_noticed(template: Path, tmp_path: Path) -> None:
    with copied(template, tmp_path / "here"):
        file = Path("images/000.png")
        Image.open(file).save(file.with_suffix(".bmp"))
        file = file.with_suffix(".bmp")
        images, found = FileImages((file,)), file.stat()
        images(0)
        content = bytearray(file.read_bytes())
        content[-1] ^= 255
        file.write_bytes(content)
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
        with pytest.raises(DataError, match=r"000\.bmp has changed"):
            images(0)


@pytest.mark.slow
def test_a_model_file_that_vanishes_is_missed_in_one_sentence(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(self: Bars, task: str, done: int, total: int, detail: str = "") -> None:
        Path("model.safetensors").unlink(missing_ok=True)

    monkeypatch.setattr(Bars, "__call__", tell)
    with copied(template, tmp_path / "here"):
        words = ["bench", "model.safetensors", "--batch", "1", "--repeats", "2", "--no-training"]
        done = CliRunner().invoke(app, words)
        require_sentence(done, 1, "model.safetensors")


def test_two_writers_in_one_folder_leave_each_other_alone(tmp_path: Path) -> None:
    with staging(tmp_path) as one, staging(tmp_path) as two:
        write_whole(tmp_path / "other", "x")
        (one / "a").write_text("a")
        (two / "b").write_text("b")
        assert one.exists()
        assert two.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "other"]


@pytest.mark.parametrize("jump", [-40 * 365 * 86400, 40 * 365 * 86400], ids=["back", "forth"])
def test_a_clock_that_jumps_changes_no_result(
    jump: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, calls = time.time, []

    def jumping() -> float:
        calls.append(1)
        return now() + jump * (len(calls) % 2)

    with copied(template, tmp_path / "whole"):
        assert call("train").exit_code == 0
        expected = weights("out/made.safetensors")
    with copied(template, tmp_path / "here"):
        monkeypatch.setattr(time, "time", jumping)
        for file in Path("images").iterdir():
            os.utime(file, (max(0, now() + jump),) * 2)
        assert call("train").exit_code == 0
        found = weights("out/made.safetensors")
    assert all(bool((found[key] == value).all()) for key, value in expected.items())


def test_a_pipeline_sees_pixels_that_changed_under_the_same_size_and_time(template: Path, tmp_path: Path) -> None:
    with copied(template, tmp_path / "here"):
        Path("images/000.bmp").write_bytes(b"x" * 100)
        table = '[attack]\nmodel = "model.safetensors"\nimages = ["images/"]\nattack = ["pgd1"]\noutput = "out"\n'
        Path("pipeline.toml").write_text(table)
        from iqa_armor.cli.commands.run import read_steps
        from iqa_armor.pipeline.steps import Pipeline
        from iqa_armor.recipe import read_recipe

        (step,) = read_steps(read_recipe(Path("pipeline.toml")), "pipeline.toml")
        pipeline = Pipeline([step], folder=Path.cwd(), state=Path(".state.json"))
        file, before = Path("images/000.bmp"), pipeline.fingerprint(step)
        found = file.stat()
        file.write_bytes(b"y" * 100)
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
        assert pipeline.fingerprint(step) != before
