"""What CONTRIBUTING.md tells is so: its paths exist, its floors are kept, its examples work where it puts them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import memory_dataset, small_network, write_images
from contributing import EXAMPLES, ROOT, TEXT, apply, write
from test_architecture import FLOORS

from iqa_armor import EvaluationSettings, evaluate, open_dataset
from iqa_armor.attacks import ATTACKS
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.base import read_chain
from iqa_armor.defenses.defended import Purified
from iqa_armor.errors import ArmorError, DataError
from iqa_armor.export import FORMATS
from iqa_armor.export.write import export_model
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.pruning import CRITERIA
from iqa_armor.pruning.prune import prune
from iqa_armor.recipe import Training
from iqa_armor.registry import Entry, import_object

ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TEXT.splitlines() if re.match(r"\| an? ", line)]


@pytest.fixture
def model() -> QualityModel:
    preprocessing = Preprocessing(size=(32, 40), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return QualityModel(small_network(), preprocessing, scale=ScoreScale(-1, 1), name="small").eval()


def test_every_kind_has_a_row_and_an_example_and_their_paths_exist() -> None:
    kinds = ["attack", "purifier", "backend", "criterion", "dataset", "figure", "format", "loss"]
    assert [row[0].split()[-1] for row in ROWS] == kinds == [title.split()[-1] for title in EXAMPLES]
    for row, example in zip(ROWS, EXAMPLES.values(), strict=True):
        paths = re.findall(r"`([^`]+)`", " ".join(row))
        assert len(paths) == 3
        assert all((ROOT / path).exists() for path in paths), paths
        written = [*example.files, *(path for _, path, _ in example.lines)]
        assert not any((ROOT / path).exists() for path in example.files)
        assert len(written) == 2  # one file and one line, or two lines
        assert all(any(path.startswith(told) for told in paths) for path in written)


def test_the_floors_are_those_that_are_kept() -> None:
    (diagram,) = re.findall(r"```text\n(.*?)```", TEXT, re.S)
    told = {unit: int(line[0]) for line in diagram.splitlines() for unit in line[1:].split()}
    assert told == FLOORS


def test_the_groups_of_plug_ins_are_those_of_the_registries() -> None:
    (told,) = re.findall(r"The groups are `iqa_armor(.*?)\. Backends", TEXT, re.S)
    groups = set(re.findall(r"\.\w+", told))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "iqa_armor").rglob("__init__.py"))
    assert groups == set(re.findall(r'group="iqa_armor(\.\w+)"', code))


def test_commands_and_markers_exist() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for marker in re.findall(r"pytest -m (\w+)|marker (\w+)", TEXT):
        assert f'"{"".join(marker)}: ' in settings
    for script in re.findall(r"(?:python|bash|-n 0) (\S+/\S+)", TEXT):
        assert (ROOT / script).is_file(), script


def test_the_attack_is_evaluated_as_an_object_and_from_its_file(model: QualityModel, tmp_path: Path) -> None:
    path = write("An attack", tmp_path)
    word, kind = f"{path}:Halving", import_object(str(path), "Halving", kind="attack")
    attacks = (word, f"{word}:steps=1", kind(steps=2))
    settings = EvaluationSettings(attacks=attacks, epsilons=(2 / 255, 8 / 255), ranking="none", resamples=20)
    found = evaluate([model], [memory_dataset(4, 6)], settings=settings).outcome.models[0].attacks
    whole, half, three_quarters = (attack.abs_gain["8"] for attack in found.values())
    assert all(0 < attack.abs_gain["2"] < attack.abs_gain["8"] for attack in found.values())
    assert half < three_quarters < whole
    with pytest.raises(ArmorError, match="steps"):
        ATTACKS.read(f"{word}:steps=0")


def test_an_attack_that_breaks_its_budget_is_caught(model: QualityModel, tmp_path: Path) -> None:
    path = write("An attack", tmp_path)
    path.write_text(path.read_text().replace("self.epsilon / 2**step", "self.epsilon / step"))
    settings = EvaluationSettings(attacks=(f"{path}:Halving",), epsilons=(2 / 255,))
    with pytest.raises(ArmorError, match="more than its budget"):
        evaluate([model], [memory_dataset(4, 6)], settings=settings)


def test_the_purifier_stands_in_front_of_a_model(model: QualityModel, tmp_path: Path) -> None:
    word, images = f"{write('A purifier', tmp_path)}:Gamma", torch.rand(2, 3, 32, 40)
    chain = read_chain(f"{word}:power=2+flip")
    with torch.no_grad():
        torch.testing.assert_close(Purified(model, chain)(images), model((images**2).flip(-1)))
    with pytest.raises(ArmorError, match="power"):
        read_chain(f"{word}:power=0.5")


def test_the_criterion_decides_what_is_pruned(tmp_path: Path) -> None:
    word = f"{write('A pruning criterion', tmp_path)}:Largest"
    network, images = small_network().eval(), torch.rand(4, 3, 32, 40)
    with torch.no_grad():
        network[3].weight[5] /= 1000  # small in all
        network[3].weight[7] = 0.02 * network[3].weight[7].sign()  # large in sum, none of them large
    for criterion in (word, CRITERIA.read(word)):
        kept = prune(trace(network, images[:1]), images, ratio=0.3, criterion=criterion).kept["3"]
        assert {5, 7}.isdisjoint(kept)
    summed = prune(trace(network, images[:1]), images, ratio=0.05, criterion=word, across_layers=True).kept
    assert summed != prune(trace(network, images[:1]), images, ratio=0.05, across_layers=True).kept


def test_the_dataset_is_opened(tmp_path: Path) -> None:
    word = f"{write('A dataset', tmp_path)}:open_jsonl"
    write_images(tmp_path / "images", count=20)
    rows = [{"image": f"{index:03d}.png", "mos": index} for index in range(20)]
    labels = tmp_path / "images" / "labels.jsonl"
    labels.write_text("\n".join(map(json.dumps, rows)))
    dataset = open_dataset(f"{word}:{labels}")
    assert isinstance(dataset, Dataset)
    assert {split: len(images) for split, images in dataset.splits.items()} == {
        "training": 14,
        "validation": 2,
        "test": 4,
    }
    _, images = dataset.reported()
    assert images.mos.tolist() == [float(name[:3]) for name in images.names]
    labels.write_text('{"image": "gone.png", "mos": 1}\n{"image": "000.png", "mos": 2}')
    with pytest.raises(DataError, match=r"(?s)missing images.*gone\.png"):
        open_dataset(f"{word}:{labels}")
    with pytest.raises(DataError, match="there is no file"):
        open_dataset(f"{word}:{tmp_path}/other.jsonl")


def test_the_export_format_is_written_and_read_back(
    model: QualityModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("An export format", tmp_path)
    assert import_object(str(path), "FORMAT", kind="format").name == "compressed torch.export"
    monkeypatch.setitem(FORMATS.entries, "gz", Entry(f"iqa_armor_user_{path.stem}:FORMAT", "."))  # type: ignore[arg-type]
    exported = export_model(model, tmp_path / "model.gz")
    assert exported.format == "compressed torch.export"
    assert exported.path.read_bytes()[:2] == b"\x1f\x8b"
    text, score = FORMATS["gz"].read(exported.path)
    assert json.loads(text)["name"] == "small"
    images = torch.rand(2, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(score(images), model(images), rtol=1e-4, atol=1e-5)


def test_the_loss_is_minimised(tmp_path: Path) -> None:
    from test_training import fit_small

    word = f"{write('A loss', tmp_path)}:huber"
    done = fit_small(
        QualityModel(small_network(), Preprocessing(size=(32, 40))),
        Training(epochs=4, learning_rate=3e-3, batch_size=8, loss=word),
    )
    assert done.epochs[-1].loss < done.epochs[1].loss
    assert done.epochs[done.best].srocc > 0.5


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of the package in which every example stands where it belongs."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "iqa_armor", folder / "iqa_armor", ignore=shutil.ignore_patterns("__pycache__"))
    apply(folder)
    return folder


def environment(package: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


BY_NAME = """
import json, sys
from pathlib import Path
import torch
import iqa_armor
from iqa_armor import EvaluationSettings, Recipe, evaluate, export_model, harden, load_model, open_dataset
from iqa_armor.defenses.base import read_purifier
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.results.outcome import Outcome

folder = Path(sys.argv[1])
assert Path(iqa_armor.__file__).parent == folder / "iqa_armor"
sys.path.append(sys.argv[2])
from conftest import small_network, write_images

images = write_images(folder / "images", count=40)
names = sorted(path.name for path in images.glob("*.png"))
(images / "labels.jsonl").write_text("\\n".join(json.dumps({"image": n, "mos": i}) for i, n in enumerate(names)))
dataset = open_dataset(f"jsonl:{images}/labels.jsonl")
assert read_purifier("gamma:power=2").power == 2

base = QualityModel(small_network(), Preprocessing(size=(32, 40)), scale=ScoreScale(-1, 1), name="base")
recipe = Recipe(backend="pointwise", criterion="largest", prune=0.2, loss="huber", epochs=1, calibration=8)
hardened = harden(base, dataset, recipe)
hardened.save(folder / "hardened.safetensors")
opened = load_model(folder / "hardened.safetensors")
assert [block.orthogonal.__class__.__name__ for block in opened.modules() if isinstance(block, RobustBlock)] == [
    "PointwiseConv2d"
]
assert export_model(opened, folder / "hardened.gz").format == "compressed torch.export"

settings = EvaluationSettings(attacks=("halving", "pgd1"), epsilons=(2 / 255, 8 / 255), ranking="none", resamples=20)
outcome = evaluate([base, opened], [dataset], settings=settings, baseline=0).outcome
assert Outcome.from_json(outcome.to_json()) == outcome
found = json.loads(outcome.to_json())["models"][1]
figures = found["attacks"]["halving"]
assert list(figures["largest_gain"]) == ["2", "8"]
assert figures["largest_gain"]["8"] >= figures["abs_gain"]["8"]
assert found["ratio_to_baseline"]["attacks"]["halving"]["largest_gain"]["8"] is not None
"""


def test_named_in_their_registries_they_work_in_a_fresh_process(package: Path) -> None:
    command = [sys.executable, "-c", BY_NAME, str(package), str(ROOT / "tests")]
    done = subprocess.run(command, cwd=package, env=environment(package), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_their_contracts_run_by_themselves_once_they_are_named(package: Path) -> None:
    files = ["test_attack_contract.py", "test_purifier_contract.py", "test_training_registries.py", "test_data_open.py"]
    chosen = "halving or gamma or huber or describe_themselves"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "-k", chosen, *files],
        cwd=ROOT / "tests",
        env=environment(package),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 10


def test_the_examples_keep_the_house_rules(package: Path) -> None:
    paths = sorted({path for each in EXAMPLES.values() for path in (*each.files, *(at for _, at, _ in each.lines))})
    shutil.copy(ROOT / "pyproject.toml", package)
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--no-cache", *paths],
            cwd=package,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
