"""The command line: exit codes, JSON, files, from a parser and from real processes."""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import time
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import ARCH, contrast_images, small_network
from forked import Forked, finished
from PIL import Image
from typer.testing import CliRunner

from iqa_armor.artifact.storage import load_artifact, save_artifact
from iqa_armor.cli import app
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.inspect import Inspection
from iqa_armor.surgery.stages import Cut

KONIQ_HEADER = ["image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "set"]


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def arch(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(ARCH)
    return f"{tmp_path / 'mine.py'}:make"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in small_network().state_dict().items()}}, path)
    return path


@pytest.fixture
def spec(image_folder: Path) -> str:
    return f"csv:{image_folder / 'labels.csv'}"


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("resnet") / "model.pt"
    torch.save(torchvision.models.resnet18(num_classes=1).state_dict(), path)
    return path


@pytest.fixture
def resnet(tmp_path: Path, resnet_file: Path) -> Path:
    (tmp_path / "model.pt").hardlink_to(resnet_file)
    return tmp_path / "model.pt"


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model that opens without more."""
    path = tmp_path_factory.mktemp("small") / "model.safetensors"
    save_artifact(QualityModel(small_network(), Preprocessing(size=(32, 40)), name="small"), path)
    return path


def write_koniq(folder: Path, *, count: int = 8) -> Path:
    pixels, mos = contrast_images(count, size=(24, 32))
    (folder / "512x384").mkdir(parents=True)
    with (folder / "koniq10k_distributions_sets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(KONIQ_HEADER)
        for index in range(count):
            name = f"{index}.jpg"
            Image.fromarray(pixels[index].permute(1, 2, 0).numpy()).save(folder / "512x384" / name)
            split = "test" if index % 4 == 3 else "validation" if index % 8 == 6 else "training"
            writer.writerow([name, 0, 0, 0, 1, 0, 100, float(mos[index]), 0.5, split])
    return folder


def test_train_harden_evaluate_score_in_a_row(arch: str, spec: str, image_folder: Path, tmp_path: Path) -> None:
    base, hardened = tmp_path / "base.safetensors", tmp_path / "base-hardened.safetensors"
    options = ("--data", spec, "--batch-size", 8, "--learning-rate", 5e-3, "--device", "cpu")
    trained = run("train", arch, "-o", base, "--epochs", 4, *options, "--json")
    assert trained.exit_code == 0, trained.stderr
    assert json.loads(trained.stdout)["output"] == str(base)
    done = run("harden", base, "--epochs", 2, *options)
    assert done.exit_code == 0, done.stderr
    assert f"wrote {hardened}" in done.stdout
    evaluated = run("evaluate", hardened, "--baseline", base, "--data", spec, "--epsilon", "2,4", "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    outcome = json.loads(evaluated.stdout)
    assert outcome["schema"] == "iqa-armor/evaluation/1"
    assert [entry["name"] for entry in outcome["models"]] == ["base", "base-hardened"]
    again = run("harden", base, "--recipe", hardened, "--print-recipe", "--json")
    assert (settings := json.loads(again.stdout))["settings"]["learning_rate"] == 5e-3
    assert settings["sources"]["epochs"] == str(hardened)
    scored = run("score", hardened, image_folder / "000.png", image_folder / "001.png", "--json")
    assert scored.exit_code == 0, scored.stderr
    assert len(json.loads(scored.stdout)["images"]) == 2
    assert list(tmp_path.glob(".*")) == []


def test_harden_of_a_foreign_state_dict_names_what_it_did(arch: str, checkpoint: Path, spec: str) -> None:
    done = run("harden", checkpoint, "--arch", arch, "--data", spec, "--epochs", 1, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert [block["channels"] for block in result["blocks"]] == [20]  # 24, in fours: eights would take a third of it
    assert result["recipe"]["epochs"] == 1
    assert Path(result["output"]) == checkpoint.with_name("model-hardened.safetensors")


def test_train_takes_a_file_of_weights_whose_architecture_is_built_in(resnet: Path, spec: str, tmp_path: Path) -> None:
    words = ("--data", spec, "--input-size", "32x40", "--dry-run")
    done = run("train", resnet, "-o", tmp_path / "t.safetensors", *words)
    assert done.exit_code == 0, done.stderr
    assert "holds the weights of a resnet18" in done.stderr


def test_dry_run_writes_nothing(arch: str, checkpoint: Path, spec: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = run("harden", checkpoint, "--arch", arch, "--data", spec, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "dry run" in done.stderr
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in str(path)) == before


def test_recipe_file_gives_settings_and_options_win(arch: str, checkpoint: Path, spec: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('backend = "aol"\nepochs = 3\n')
    done = run(
        "harden", checkpoint, "--arch", arch, "--data", spec, "--recipe", recipe, "--epochs", 0, "--dry-run", "--json"
    )
    assert done.exit_code == 0, done.stderr
    settings = json.loads(done.stdout)["recipe"]
    assert (settings["backend"], settings["epochs"]) == ("aol", 0)


def test_inspect_recommends_the_last_cut(resnet: Path) -> None:
    done = run("inspect", resnet, "--input-size", "64x96", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["recommended"] == ["layer3_1_relu_1"]
    assert found["cuts"][-1]["size"] == [4, 6]
    assert "resnet18" in done.stderr


def test_inspect_shows_what_it_recommends(small_file: Path) -> None:
    (cut,) = json.loads(run("inspect", small_file, "--json").stdout)["recommended"]
    assert cut in run("inspect", small_file).stdout


def test_usual_names_of_nodes_stand_whole_in_80_columns(small_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"backbone_layer{number}_1_relu_1" for number in (1, 2, 3)]
    cuts = tuple(Cut(name, branch=0, position=1, channels=64, size=(125, 166), ratio=1.0) for name in names)
    found = Inspection("x", 1, (498, 664), cuts, tuple(names[-1:]), grids=(), blocks=(), spectra=(), remarks=())
    monkeypatch.setattr("iqa_armor.pipeline.inspect.inspect_model", lambda model: found)
    lines = [line for line in run("inspect", small_file).stdout.splitlines() if "│" in line]
    assert max(map(len, lines)) <= 80
    assert [name for name in names for line in lines if name in line] == names


def test_inspect_says_why_a_dilated_network_has_no_last_cut(tmp_path: Path) -> None:
    (tmp_path / "dilated.py").write_text(
        "import torchvision\ndef make():\n    return torchvision.models.resnet50(num_classes=1, "
        "replace_stride_with_dilation=[False, False, True])\n"
    )
    network = torchvision.models.resnet50(num_classes=1, replace_stride_with_dilation=[False, False, True])
    torch.save(network.state_dict(), tmp_path / "dilated.pt")
    arch = f"{tmp_path / 'dilated.py'}:make"
    done = run("inspect", tmp_path / "dilated.pt", "--arch", arch, "--input-size", "64x64", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["recommended"] == []
    assert "--position NODE" in json.loads(done.stdout)["remarks"][0]


def test_requirement_that_does_not_hold_exits_10(arch: str, spec: str, tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    run("train", arch, "-o", base, "--epochs", 1, "--data", spec)
    common = ("evaluate", base, "--data", spec, "--epsilon", "2", "--attack", "pgd1")
    failed = run(*common, "--require", "srocc >= 2")
    assert failed.exit_code == 10
    assert "srocc >= 2" in failed.stderr
    assert run(*common, "--require", "srocc <= 2").exit_code == 0
    mistyped = run(*common, "--require", "sroc >= 2")
    assert mistyped.exit_code == 2
    assert "did you mean 'srocc'" in mistyped.stderr


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("command", ["inspect", "harden", "evaluate", "score", "train"])
def test_file_that_would_run_code_is_refused_with_the_way_out(command: str, tmp_path: Path, spec: str) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "was-run"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    rest = {"score": [tmp_path], "train": ["--data", spec]}.get(command, [])
    if command in ("harden", "evaluate"):
        rest = ["--data", spec]
    done = run(command, path, *rest)
    assert done.exit_code == 3, (done.stdout, done.stderr)
    assert "--trust-pickle" in done.stderr
    assert not trace.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["inspect", "absent.pt"], 3, "no model file absent.pt"),
        (["harden", "MODEL", "--data", "csv:absent.csv"], 5, "absent.csv"),
        (["harden", "MODEL", "--data", "video:x"], 5, "unknown dataset 'video'"),
        (["harden", "MODEL", "--data", "SPEC", "--position", "layer9", "--input-size", "64x64"], 4, "layer9"),
        (["harden", "MODEL", "--data", "SPEC", "--prune", "1.5"], 6, "prune"),
        (["harden", "MODEL", "--data", "SPEC", "-o", "model.pt"], 2, "safetensors"),
        (["harden", "MODEL", "--data", "SPEC", "-o", "MODEL/out.safetensors"], 1, "cannot write"),
        (["harden", "MODEL", "--input-size", "12"], 2, "HEIGHTxWIDTH"),
        (["harden", "MODEL", "--backend", "fourier"], 2, "fourier"),
        (["evaluate", "MODEL", "--data", "SPEC", "--attack", "pgdx"], 2, "unknown attack"),
        (["evaluate", "MODEL", "--data", "SPEC", "--epsilon", "4,2"], 2, "ascend"),
        (["score", "MODEL", "absent.png"], 5, "absent.png"),
        (["train", "resnet19", "--data", "SPEC"], 3, "did you mean resnet18"),
        (["train", "mine.py", "--data", "SPEC"], 3, "mine.py:FUNCTION"),
        (["demo", "-o", "MODEL"], 2, "is a file"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, small_file: Path, spec: str
) -> None:
    done = run(*(argument.replace("MODEL", str(small_file)).replace("SPEC", spec) for argument in arguments))
    assert done.exit_code == code, (done.stdout, done.stderr)
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_a_dataset_the_error_says_how_to_name_one(small_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IQA_ARMOR_KONIQ10K", raising=False)
    done = run("harden", small_file)
    assert done.exit_code == 5
    assert "IQA_ARMOR_KONIQ10K" in done.stderr


def test_unmatched_weights_list_the_candidates(checkpoint: Path, spec: str) -> None:
    done = run("harden", checkpoint, "--data", spec)
    assert done.exit_code == 3
    assert "--arch" in done.stderr


def test_every_command_explains_itself() -> None:
    for command in ("inspect", "harden", "evaluate", "score", "train", "export", "demo"):
        done = run(command, "--help")
        assert done.exit_code == 0
        assert "--json" in done.stdout


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("shufflenet_v2_x0_5", ["--epochs", "1", "--defense", "none"]),
        pytest.param("resnet18", [], marks=pytest.mark.slow),
    ],
)
def test_plain_command_in_a_real_process_on_koniq_layout(name: str, options: list[str], tmp_path: Path) -> None:
    torch.save(torchvision.models.get_model(name, num_classes=1).state_dict(), tmp_path / "model.pt")
    environment = {"IQA_ARMOR_KONIQ10K": str(write_koniq(tmp_path / "koniq"))}
    words = ["harden", "model.pt", "--position", "last", *options]
    code, _, said = finished(words, folder=tmp_path, environment=environment)
    assert code == 0, said
    assert name in said
    model = load_artifact(tmp_path / "model-hardened.safetensors")
    assert model.scale is not None
    assert model.preprocessing.size == (498, 664)


def test_killed_hardening_leaves_no_output(arch: str, checkpoint: Path, spec: str, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    options = ["--arch", arch, "--data", spec, "--epochs", "500", "-o", str(output)]
    with Forked(["harden", str(checkpoint), *options]) as process:
        for line in process.stderr:
            if "epoch 2" in line:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(0.1)
    assert not output.exists()
    # Left where a run of version 0.1.0, or one killed while it wrote, stopped.
    (tmp_path / "..out.resume.pt.k3_x9ab0").write_bytes(b"half")
    (tmp_path / ".out.safetensors.unfinished-dead").mkdir()
    done = run("harden", checkpoint, "--arch", arch, "--data", spec, "--epochs", 1, "-o", output)
    assert done.exit_code == 0, done.stderr
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_two_processes_that_would_fit_one_model_are_refused(
    arch: str, checkpoint: Path, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun and accelerate launch do
    monkeypatch.setenv("RANK", "0")
    before = sorted(tmp_path.iterdir())
    done = run("harden", checkpoint, "--arch", arch, "--data", spec, "-o", tmp_path / "out.safetensors")
    assert done.exit_code == 2
    assert done.stderr.count("error: a launcher has started 2 processes") == 1
    assert sorted(tmp_path.iterdir()) == before
