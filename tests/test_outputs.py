"""Networks that return several things, and graphs that serve one size."""

from collections import namedtuple
from pathlib import Path

import pytest
import torch
from conftest import memory_dataset
from torch import Tensor, nn
from typer.testing import CliRunner

from iqa_armor.artifact.storage import load_artifact, save_artifact
from iqa_armor.cli import app
from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.harden import harden
from iqa_armor.pipeline.inspect import inspect_model
from iqa_armor.pipeline.load import load_model
from iqa_armor.pipeline.settings import Opening
from iqa_armor.recipe import Recipe

Both = namedtuple("Both", ["quality", "features"])


class Several(nn.Module):
    """A network that returns one of many things people return."""

    def __init__(self, kind: str = "dict") -> None:
        super().__init__()
        self.kind = kind
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.score, self.bins = nn.Linear(8, 1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> object:
        features = self.two(self.one(x).relu()).relu().mean((2, 3))
        score, bins = self.score(features), self.bins(features)
        made = {
            "dict": {"score": score, "features": features},
            "tuple": (score, features),
            "named": Both(score, features),
            "list": [score],
            "scales": [score, 3 * score],
            "nested": {"scores": score.squeeze(1), "extra": None},
            "bins": bins.softmax(1),
            "pair": torch.cat([score, bins[:, :1]], 1),
            "column": score.view(-1, 1, 1, 1),
        }
        return made[self.kind]


CHOSEN = [
    ("dict", "score", lambda n, x: n["score"]),
    ("tuple", "0", lambda n, x: n["score"]),
    ("named", "quality", lambda n, x: n["score"]),
    ("named", "0", lambda n, x: n["score"]),
    ("list", "0", lambda n, x: n["score"]),
    ("list", "-1", lambda n, x: n["score"]),
    ("scales", "mean", lambda n, x: 2 * n["score"]),
    ("nested", "scores", lambda n, x: n["score"]),
    ("pair", "0", lambda n, x: n["score"]),
]
REFUSED = [
    ("dict", "a dict of 'score' (2, 1), 'features' (2, 8)"),
    ("tuple", "a tuple of 0 (2, 1), 1 (2, 8)"),
    ("named", "a Both of quality (2, 1), features (2, 8)"),
    ("bins", "(2, 10)"),
    ("pair", "(2, 2)"),
]


def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def file_of(kind: str, folder: Path) -> tuple[Path, str]:
    """Return a state dict of the network and the name of its factory."""
    torch.manual_seed(0)
    torch.save(Several(kind).state_dict(), folder / "model.pt")
    (folder / "own.py").write_text(f"from test_outputs import Several\ndef make():\n    return Several({kind!r})\n")
    return folder / "model.pt", f"{folder / 'own.py'}:make"


def opened(kind: str, choice: str | None, folder: Path) -> QualityModel:
    path, arch = file_of(kind, folder)
    return load_model(path, arch, opening=Opening(input_size=(16, 16), score_output=choice))


@pytest.mark.parametrize(("kind", "choice", "expected"), CHOSEN)
def test_output_chooses(kind: str, choice: str, expected: object, tmp_path: Path) -> None:
    model, plain = opened(kind, choice, tmp_path), Several().eval()
    plain.load_state_dict(model.network.state_dict())  # its names stay
    with torch.no_grad():
        wanted = expected(plain(model.normalize(images())), images())  # type: ignore[operator]
        torch.testing.assert_close(model(images()), wanted.flatten())


def test_mean_of_a_distribution_is_in_bins(tmp_path: Path) -> None:
    model, plain = opened("bins", "mean", tmp_path), Several("bins").eval()
    plain.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        bins = plain(model.normalize(images()))
        torch.testing.assert_close(model(images()), (bins * torch.arange(1, 11)).sum(1))


@pytest.mark.parametrize(("kind", "listed"), REFUSED)
def test_without_it_the_error_lists_what_came_out(kind: str, listed: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        opened(kind, None, tmp_path)(images())
    assert listed in str(caught.value)
    assert "--output NAME|INDEX|mean" in str(caught.value)


@pytest.mark.parametrize("choice", ["quality", "7", ""])
def test_an_output_that_is_not_there_is_refused(choice: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no output .*it returns a dict of 'score' \(2, 1\)"):
        opened("dict", choice, tmp_path)


def test_column_of_maps_is_a_score(tmp_path: Path) -> None:
    assert opened("column", None, tmp_path)(images()).shape == (2,)


def test_chosen_output_is_hardened_and_stored(tmp_path: Path) -> None:
    path, arch = file_of("dict", tmp_path)
    out, common = tmp_path / "out.safetensors", ["--data", "synthetic:scenes=6,size=64x64", "--input-size", "16x16"]
    words = ["harden", str(path), "--arch", arch, *common, "--output", "score", "--epochs", "0", "-o", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert load_artifact(out)(images()).shape == (2,)
    again = CliRunner().invoke(app, ["inspect", str(out), "--output", "score"])
    assert again.exit_code == 3
    assert "leave --output away" in again.output


class Asking(Several):
    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[2]
        found: Tensor = super().forward(x if side < 32 else x[:, :, ::2, ::2])[self.kind and "score"]  # type: ignore[index]
        return found


def test_a_graph_for_one_size_says_so_and_refuses_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = QualityModel(Asking().eval(), Preprocessing(size=(16, 16)), name="asking")
    path = tmp_path / "asking.safetensors"
    save_artifact(model, path, recipe={}, provenance={})
    stored = load_artifact(path)
    torch.testing.assert_close(stored(images()), model(images()))
    with pytest.raises(ModelLoadError, match=r"asking serves images of 16x16 only.*\(2, 3, 24, 24\)"):
        stored(torch.rand(2, 3, 24, 24))
    assert "its graph serves images of 16x16 only" in inspect_model(stored).remarks
    result = harden(stored, memory_dataset(training=8), Recipe(epochs=0, calibration=4, prune=0))
    result.save(path)
    with pytest.raises(ModelLoadError, match="16x16 only"):
        load_artifact(path)(torch.rand(2, 3, 24, 24))
    assert not capfd.readouterr().err.count("Traceback")


def test_a_graph_that_fails_prints_no_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_artifact(
        QualityModel(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 1)), Preprocessing((16, 16))
        ),
        tmp_path / "flat.safetensors",
        recipe={},
        provenance={},
    )
    with pytest.raises(ModelLoadError, match="fails on"):
        load_artifact(tmp_path / "flat.safetensors")(torch.rand(2, 3, 24, 24))
    assert not capfd.readouterr().err


def test_gray_networks_and_other_precisions_are_named() -> None:
    data, recipe = memory_dataset(training=8), Recipe(epochs=0, calibration=4)
    for make, reason in (
        (lambda: Several("column").half(), "float16"),
        (lambda: Several("column").double(), "float64"),
    ):
        with pytest.raises(ModelLoadError, match=f"weights in torch.{reason}"):
            harden(QualityModel(make(), Preprocessing(size=(16, 16))), data, recipe)
