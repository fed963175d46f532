"""Opening models: how often one is built, and in which precision, for every kind of file."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ARCH, memory_dataset, small_network, write_images
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from iqa_armor import load_model
from iqa_armor.artifact.storage import save_artifact
from iqa_armor.cli import app
from iqa_armor.data.prepared import PreparedImages, worker_count
from iqa_armor.data.specs import open_dataset
from iqa_armor.errors import ModelLoadError
from iqa_armor.graph.trace import trace
from iqa_armor.models import ARCHITECTURES
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.pipeline.load import start_model
from iqa_armor.pipeline.settings import Opening

# Everything that can be said of a model, so that each part must be carried to the one that is built.
SAID = Opening(input_size=(32, 40), mean=(0.1, 0.2, 0.3), score_range=(2, 5), lower_is_better=True)


class Small(nn.Module):
    """A network that counts how often it is built with storage."""

    built = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers = small_network()
        Small.built += not next(self.parameters()).is_meta

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, int]]:
    """Return how many networks and quality models were built since the test began."""
    models = []
    constructed = QualityModel.__init__

    def counting(self: QualityModel, *args: object, **options: object) -> None:
        models.append(1)
        constructed(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(QualityModel, "__init__", counting)
    monkeypatch.setattr(Small, "built", 0)
    monkeypatch.setitem(ARCHITECTURES._made, "resnet18", Small)
    return lambda: (Small.built, len(models))


def check_said(model: QualityModel) -> None:
    assert model.preprocessing == Preprocessing(size=(32, 40), mean=(0.1, 0.2, 0.3))
    torch.testing.assert_close(model.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert model.scale == ScoreScale(2, 5, higher_is_better=False)
    assert not model.higher_is_better


def test_artifact_is_built_once(tmp_path: Path, counted: Callable[[], tuple[int, int]]) -> None:
    traced = trace(small_network().eval(), torch.zeros(1, 3, 32, 40))
    save_artifact(
        QualityModel(traced, Preprocessing(size=(32, 40))), tmp_path / "m.safetensors", recipe={}, provenance={}
    )
    before = counted()[1]
    check_said(load_model(tmp_path / "m.safetensors", opening=SAID))
    assert counted()[1] == before + 1


@pytest.mark.parametrize("arch", [None, "resnet18"])
def test_network_of_a_state_dict_is_built_once(
    tmp_path: Path, counted: Callable[[], tuple[int, int]], arch: str | None
) -> None:
    torch.save({f"layers.{name}": value for name, value in small_network(3).state_dict().items()}, tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", arch, opening=SAID)
    check_said(model)
    assert counted() == (1, 1)
    assert (model.name, model.arch, model.training) == ("m", "resnet18", False)
    torch.testing.assert_close(model.network.layers[0].weight, small_network(3)[0].weight)


def test_pickled_module_is_wrapped_once(tmp_path: Path, counted: Callable[[], tuple[int, int]]) -> None:
    torch.save(small_network(), tmp_path / "m.pt")
    check_said(load_model(tmp_path / "m.pt", opening=SAID.model_copy(update={"trust_pickle": True})))
    assert counted() == (0, 1)


def test_pickled_quality_model_is_not_wrapped_again(tmp_path: Path, counted: Callable[[], tuple[int, int]]) -> None:
    torch.save(QualityModel(small_network(), name="other"), tmp_path / "m.pt")
    check_said(load_model(tmp_path / "m.pt", opening=SAID.model_copy(update={"trust_pickle": True})))
    assert counted() == (0, 1)  # the one that was saved


def test_model_to_train_is_built_once(tmp_path: Path, counted: Callable[[], tuple[int, int]]) -> None:
    check_said(start_model("resnet18", opening=SAID)[0])
    assert counted() == (1, 1)
    state = {f"layers.{name}": value for name, value in small_network(3).state_dict().items() if "11" not in name}
    torch.save(state, tmp_path / "m.pt")
    _, fresh = start_model("resnet18", opening=SAID, weights=tmp_path / "m.pt")
    assert counted() == (2, 2)
    assert fresh == ("layers.11.weight", "layers.11.bias")


def test_quality_model_of_a_users_class_keeps_its_class(tmp_path: Path) -> None:
    source = ARCH.replace("return QualityModel(", "return Own(") + "\nclass Own(QualityModel):\n    mine = True\n"
    (tmp_path / "own.py").write_text(source)
    model = start_model(f"{tmp_path}/own.py:make", opening=SAID)[0]
    check_said(model)
    assert model.mine  # type: ignore[truthy-bool]


@pytest.mark.parametrize("said", [{"score_range": (2, 1)}, {"std": (0, 1, 1)}])
def test_what_cannot_be_is_refused_before_a_file_is_read(said: dict[str, object]) -> None:
    with pytest.raises(ModelLoadError, match=r"needs finite low < high|positive ones"):
        load_model("absent.pt", opening=Opening(**said))  # type: ignore[arg-type]


FACTORY = """
import torch
from torch import nn

class Reads(nn.Module):
    def __init__(self, inner, kind=None):
        super().__init__()
        self.inner, self.kind = inner, kind

    def forward(self, images):
        return self.inner(images if self.kind is None else images.to(self.kind)).mean((1, 2, 3))

def network(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4))

def half(): return Reads(network().half())
def bfloat16(): return Reads(network().bfloat16())
def double(): return Reads(network().double())
def mixed():
    made = network()
    made[0].half()
    return Reads(made)
def buffers():
    made = network()
    made[1].running_mean = made[1].running_mean.bfloat16()
    return Reads(made)
def single(): return Reads(network())
def casts_itself(): return Reads(network(), torch.float16)
def gray(): return Reads(network(1))
def four_channels(): return Reads(network(4))
def vector(): return nn.Linear(5, 1)
def asserts():
    class Asserts(Reads):
        def forward(self, images):
            assert len(images) > 7
    return Asserts(network())
"""


@pytest.fixture
def factories(tmp_path: Path) -> Path:
    (tmp_path / "zoo_of_types.py").write_text(FACTORY)
    return tmp_path / "zoo_of_types.py"


def score(*arguments: object) -> tuple[int, dict, str]:
    done = CliRunner().invoke(app, ["score", *map(str, arguments), "--input-size", "own", "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout) if done.exit_code == 0 else {}, done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", count=1) / "000.png"


def state_of(factories: Path, name: str, **options: object) -> dict[str, Tensor]:
    scope: dict = {}
    exec(factories.read_text(), scope)
    return scope[name](**options).state_dict()


@pytest.mark.parametrize("name", ["half", "bfloat16", "double", "mixed", "buffers"])
def test_network_in_another_precision_is_cast_with_one_note(factories: Path, image: Path, name: str) -> None:
    torch.save(state_of(factories, "single"), factories.with_name("m.pt"))
    code, result, messages = score(factories.with_name("m.pt"), image, "--arch", f"{factories}:{name}")
    assert (code, messages.count("cast to float32")) == (0, 1)
    expected = score(factories.with_name("m.pt"), image, "--arch", f"{factories}:single")[1]
    assert result["images"][0]["score"] == pytest.approx(expected["images"][0]["score"], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_in_another_precision_are_cast_with_one_note(
    factories: Path, image: Path, dtype: torch.dtype, suffix: str
) -> None:
    from safetensors.torch import save_file

    state = state_of(factories, "single")
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    file = factories.with_name(f"m{suffix}")
    save_file(cast, file) if suffix == ".safetensors" else torch.save(cast, file)
    code, result, messages = score(file, image, "--arch", f"{factories}:single")
    assert (code, messages.count("cast to float32")) == (0, 1), messages
    assert result["images"][0]["score"] == result["images"][0]["score"]


@pytest.mark.parametrize("name", ["half", "bfloat16", "double", "mixed", "buffers"])
def test_pickled_module_in_another_precision_is_cast(tmp_path: Path, name: str) -> None:
    kinds = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}
    network = small_network()
    network[0 if name in ("mixed", "buffers") else slice(None)].to(kinds.get(name, torch.float16))
    torch.save(network, tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", opening=Opening(input_size="own", trust_pickle=True))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model(torch.rand(2, 3, 32, 40)).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("casts_itself", "Half"),
        ("gray", "1 channel"),
        ("four_channels", "4 channels"),
        ("vector", "shape"),
        ("asserts", "AssertionError"),
    ],
)
def test_network_that_fails_on_images_is_refused_with_a_sentence(
    factories: Path, image: Path, name: str, reason: str
) -> None:
    torch.save(state_of(factories, name), factories.with_name("m.pt"))
    arguments = ["--arch", f"{factories}:{name}", "--input-size", "own"]
    code, _, messages = score(factories.with_name("m.pt"), image, *arguments)
    assert code == 3
    assert reason in messages
    assert "m fails on torch.float32 images of shape (1, 3, 32, 40)" in messages.replace("\n", " ")
    data = ["--data", f"csv:{image.parent}/labels.csv", "--attack", "pgd1"]
    done = CliRunner().invoke(app, ["evaluate", str(factories.with_name("m.pt")), *data, *arguments])
    assert done.exit_code == 3, done.output


def test_memory_that_is_out_is_not_called_the_networks_failure() -> None:
    class Hungry(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("none left")

    with pytest.raises(torch.OutOfMemoryError):
        QualityModel(Hungry())(torch.rand(1, 3, 8, 8))


def test_prepared_images_are_sent_without_the_model() -> None:
    model = QualityModel(small_network(), Preprocessing(size=(32, 40)))
    assert len(pickle.dumps(model.prepare)) < 1000
    images = open_dataset("synthetic:scenes=3,size=64x64").splits["test"].select([0])
    prepared = PreparedImages(images, model.prepare)
    assert len(pickle.dumps(prepared)) < len(pickle.dumps(images)) + 2000


SPAWNING = """
import sys, torch
from torch.utils.data import DataLoader
from iqa_armor.data.prepared import PreparedImages
from iqa_armor.data.specs import open_dataset
from iqa_armor.pipeline.load import start_model
from iqa_armor.pipeline.settings import Opening

if __name__ == "__main__":
    model = start_model(sys.argv[1], opening=Opening())[0]
    images = PreparedImages(open_dataset(sys.argv[2]).training(), model.prepare)
    loader = DataLoader(images, 4, num_workers=1, multiprocessing_context="spawn")
    shapes = [tuple(batch.shape) for batch, _, _ in loader]
    print(sum(shape[0] for shape in shapes), shapes[0][1:])
"""


def test_spawned_workers_need_no_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(ARCH)
    folder = write_images(tmp_path / "images", count=8)
    script = tmp_path / "script.py"
    script.write_text(SPAWNING)
    command = [sys.executable, str(script), f"{tmp_path}/own.py:make", f"csv:{folder}/labels.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0] == "6 (3, 32, 40)", done.stderr


def test_code_that_workers_cannot_import_stays_in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", count=4)
    files, model = open_dataset(f"csv:{folder}/labels.csv").training(), QualityModel(small_network())
    own = memory_dataset(4).training()
    for method, expected in (("fork", [True, True]), ("spawn", [True, False]), ("forkserver", [True, False])):
        monkeypatch.setattr("multiprocessing.get_start_method", lambda method=method: method)
        found = [worker_count(PreparedImages(images, model.prepare)) > 0 for images in (files, own)]
        assert found == expected
    assert len(next(iter(DataLoader(PreparedImages(own, model.prepare), 2)))) == 3


def test_file_named_with_arch_imports_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "parts_of_own.py").write_text("from torch import nn\ndef part():\n    return nn.Conv2d(3, 1, 1)\n")
    (tmp_path / "own_with_parts.py").write_text("import parts_of_own\ndef make():\n    return parts_of_own.part()\n")
    model = start_model(f"{tmp_path}/own_with_parts.py:make", opening=Opening())[0]
    assert isinstance(model.network, nn.Conv2d)
    assert model.name == "make"
