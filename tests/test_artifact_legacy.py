"""Files written by version 0.1.0, one of each kind: they open and score as they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from iqa_armor.artifact.storage import load_artifact, read_metadata, save_artifact
from iqa_armor.defenses.purifiers.fcn import load_fcn

FOLDER = Path(__file__).parent / "data" / "legacy"
SCORES = json.loads((FOLDER / "expected.json").read_text())["scores"]


def images_of(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 24, 32, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("kind", [name for name in SCORES if name != "fcn"])
def test_an_old_artifact_opens_scores_the_same_and_is_written_alike(kind: str, tmp_path: Path) -> None:
    path = FOLDER / f"{kind}.safetensors"
    model = load_artifact(path)
    with torch.no_grad():
        scores = model(images_of(3))
    torch.testing.assert_close(scores, torch.tensor(SCORES[kind]), rtol=1e-5, atol=1e-6)
    metadata = read_metadata(path)
    assert (metadata["format"], metadata["name"], metadata["arch"]) == (1, kind, "own:net")
    again = tmp_path / "again.safetensors"
    save_artifact(model, again, recipe=metadata["recipe"], provenance=metadata["provenance"])
    assert read_metadata(again) == metadata
    with torch.no_grad():
        assert torch.equal(load_artifact(again)(images_of(3)), scores)


def test_every_old_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == set(SCORES)


def test_an_old_filter_opens_and_filters_the_same() -> None:
    with torch.no_grad():
        clean = load_fcn(FOLDER / "fcn.safetensors")[0](images_of(1))
    found = [float(clean.mean()), float(clean[0, 0, 5, 6]), float(clean[0, 2, 20, 11])]
    assert found == pytest.approx(SCORES["fcn"], rel=1e-5)
