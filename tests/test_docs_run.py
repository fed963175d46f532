"""Every command and every Python block of README and docs does what it says, on small material."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import small_network, write_images
from typer.testing import CliRunner

from iqa_armor import Preprocessing, QualityModel, Recipe, ScoreScale, export_model, save_model
from iqa_armor.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHORT = {"--epochs": "1", "--limit": "6", "--input-size": "64x64", "--samples": "40", "--repeats": "1"}
SHORT |= {"--attack": "pgd8", "--epsilon": "4", "--ranking-epsilon": "1"}
GIVEN = ("base", "control", "hardened", "at", "base-hardened", "model-hardened", "sharpness", "h-0", "h-1", "h-2")
OWN_DATA = re.compile(r"\b[A-Z][A-Z_]*DIR\b|:DIR\b|kadid10k:")  # what is not at hand here


NAMED = re.compile(r'```\w+ title="(\S+)"\n(.*?)```', re.S)  # blocks that are files


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)]


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return list(dict.fromkeys(line.partition(" # ")[0].strip() for line in lines if line.startswith("iqa-armor ")))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the documents name."""
    folder = tmp_path_factory.mktemp("docs")
    write_images(folder / "images", count=24)
    table = (folder / "images" / "labels.csv").read_text().replace("\n0", "\nimages/0")
    (folder / "labels.csv").write_text(table)
    (folder / "photo.jpg").write_bytes((folder / "images" / "000.png").read_bytes())
    network = torchvision.models.resnet18(num_classes=1)
    for name in ("model.pt", "resnet18-imagenet.pth"):
        torch.save(network.state_dict(), folder / name)
    model = QualityModel(small_network(), Preprocessing(size=(32, 40)), scale=ScoreScale(-1, 1))
    for name in GIVEN:
        save_model(model, folder / f"{name}.safetensors", recipe=Recipe().model_dump())
    export_model(model, folder / "model.onnx")
    (folder / "pipeline.toml").write_text('[inspect]\nmodel = "base.safetensors"\n')
    (folder / "list.txt").write_text("".join(f"images/{n:03}.png {n}\n" for n in range(24)))
    for page in PAGES:
        for name, text in NAMED.findall(page.read_text()):
            (folder / name).write_text(text)
    return folder


def shortened(words: list[str]) -> list[str]:
    """Return the words of a command with settings that make it quick, where it has them."""
    words = ["64x64" if before in ("--input-size", "--size") else word for before, word in pairwise(["", *words])]
    known = CliRunner().invoke(app, [words[0], "--help-all"], env={"COLUMNS": "200"}).stdout
    for flag, value in SHORT.items():
        is_foreign = flag != "--input-size" or any(word in words for word in ("model.pt", "resnet18"))
        if f"{flag} " in known and flag not in words and is_foreign:
            words = [*words, flag, value]
    return [*words, *(["--overwrite"] if "--overwrite" in known else [])]


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in commands() if not OWN_DATA.search(line)])
def test_command_runs(line: str, material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(material)
    words = shlex.split(re.sub(r" > \S+$", "", line))[1:]
    done = CliRunner().invoke(app, words if words[0] in ("data", "demo") else shortened(words))
    # 10: what is required of real models need not hold for these
    assert done.exit_code == 0 or (done.exit_code == 10 and "--require" in words), (done.stderr, done.exception)


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, marks=[pytest.mark.slow] * ("= harden(" in block)) for block in blocks("python")],
)
def test_python_block_runs(block: str, material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(material)
    size = Preprocessing.__init__.__defaults__
    monkeypatch.setattr(Preprocessing.__init__, "__defaults__", ((64, 64), *size[1:]))  # type: ignore[index]
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), {})
