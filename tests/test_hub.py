"""Models on the hub: fetched, hardened and sent back, to a fake of it in a folder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import write_images
from typer.testing import CliRunner

import iqa_armor
from iqa_armor import load_model
from iqa_armor.cli import app
from iqa_armor.errors import ModelLoadError
from iqa_armor.pipeline.card import describe_file
from iqa_armor.pipeline.steps import Pipeline, Step

MODEL = Path(iqa_armor.__file__).parent / "assets" / "demo.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a hub that has "us/demo"."""
    root = tmp_path / "hub"
    (root / "us" / "demo").mkdir(parents=True)
    shutil.copy(MODEL, root / "us" / "demo" / "model.safetensors")

    def download(repository: str, name: str) -> str:
        if not (root / repository / name).is_file():
            raise OSError(f"404: no {name} in {repository}")
        return str(root / repository / name)

    class Api:
        def create_repo(self, repository: str, *, exist_ok: bool) -> None:
            if repository.startswith("them/"):
                raise OSError("403")
            (root / repository).mkdir(parents=True, exist_ok=exist_ok)

        def upload_file(self, *, path_or_fileobj: str, path_in_repo: str, repo_id: str) -> None:
            shutil.copy(path_or_fileobj, root / repo_id / path_in_repo)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download, HfApi=Api))
    monkeypatch.chdir(tmp_path)
    return root


def test_a_model_is_fetched_hardened_and_sent_back_with_its_card(hub: Path, tmp_path: Path) -> None:
    assert load_model("hf:us/demo").name == "demo"
    labels = write_images(tmp_path / "images", count=20) / "labels.csv"
    few = ["--data", f"csv:{labels}", "--epochs", "0", "--device", "cpu"]
    done = CliRunner().invoke(app, ["harden", "hf:us/demo", *few, "-o", "hf:us/hard"])
    assert done.exit_code == 0, done.stderr
    assert "# demo-hardened" in (hub / "us" / "hard" / "README.md").read_text()
    assert describe_file(hub / "us" / "hard" / "model.safetensors")["name"] == "demo-hardened"
    assert (tmp_path / "hard.safetensors").is_file()
    assert CliRunner().invoke(app, ["info", "hf:us/hard"]).exit_code == 0
    refused = CliRunner().invoke(app, ["harden", "hf:us/demo", *few, "-o", "hf:them/other"])
    assert refused.exit_code == 1
    assert "cannot push to hf:them/other: 403; other.safetensors is kept" in refused.stderr


def test_what_is_not_there_is_refused_by_name(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match="cannot fetch hf:us/none: 404"):
        load_model("hf:us/none")
    with pytest.raises(ModelLoadError, match="hf:owner/name"):
        load_model("hf:us")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelLoadError, match="pip install huggingface_hub"):
        load_model("hf:us/demo")


def test_a_pipeline_looks_whether_models_on_the_hub_have_changed(hub: Path, tmp_path: Path) -> None:
    class Pushing(Pipeline):
        def _call(self, step: Step, *, quiet: bool) -> int:
            if step.outputs:
                (self.folder / "hard.safetensors").write_text("made")
            return 0

    steps = [
        Step("push", ("harden", "hf:us/demo", "-o", "hf:us/hard"), ("hf:us/hard",)),
        Step("last", ("evaluate", "hf:us/demo")),
    ]

    def ran(*, dry: bool = False) -> list[str]:
        return [each.status for each in Pushing(steps, folder=tmp_path, state=tmp_path / "s.json").run(dry=dry)]

    assert ran() == ["done", "done"]
    assert ran() == ["unchanged", "unchanged"]
    (hub / "us" / "demo" / "model.safetensors").write_bytes(b"another")
    assert ran() == ["done", "done"]
    (tmp_path / "hard.safetensors").unlink()
    assert ran() == ["done", "unchanged"]
    (hub / "us" / "demo" / "model.safetensors").unlink()  # the command itself says that it cannot be had
    assert ran(dry=True) == ["would run", "would run"]
