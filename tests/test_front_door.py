"""Python's front door: paths as text, names that tell models apart."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import memory_dataset
from PIL import Image
from torch import Tensor

import iqa_armor
from iqa_armor import EvaluationSettings, Recipe, ScoreScale, evaluate, export_model, harden, load_model, save_model
from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.pgd import PGD
from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.models.base import Preprocessing
from iqa_armor.pipeline.attack import attack_images, build_attacks
from iqa_armor.pipeline.score import score_files

MODULES = ("attack", "bench", "certify", "harden", "load", "score", "train")
QUICK = EvaluationSettings(attacks=("pgd1",), epsilons=(4 / 255,), ranking="none", resamples=10, limit=4)


def public() -> Iterator[tuple[str, str]]:
    """Yield names and annotations of the parameters of what users call."""
    called = [getattr(iqa_armor, name) for name in iqa_armor.__all__]
    for module in (import_module(f"iqa_armor.pipeline.{name}") for name in MODULES):
        own = (each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__)
        called += [each for each in own if each.__name__[0] != "_"]
    for each in called:
        own = [each, getattr(each, "save", None)] if inspect.isclass(each) else [each]
        for function in filter(inspect.isfunction, own):
            for parameter in inspect.signature(function).parameters.values():
                yield f"{function.__module__}.{function.__qualname__}: {parameter.name}", str(parameter.annotation)


def test_every_public_function_takes_paths_as_text() -> None:
    paths = {name: said for name, said in public() if "Path" in said}
    assert len(paths) > 10
    assert {name: said for name, said in paths.items() if "str" not in said} == {}


def test_a_hardened_model_has_a_name_of_its_own_and_texts_name_files(make_model, tmp_path: Path) -> None:
    data, model = memory_dataset(40, 8), make_model(scale=ScoreScale(0, 1))
    results = [harden(model, data, Recipe(epochs=0, backend=backend)) for backend in ("cayley", "aol")]
    assert [result.model.name for result in results] == ["small-hardened"] * 2
    path = f"{tmp_path}/h.safetensors"
    results[0].save(path)
    assert load_model(path).name == "h"
    models = [model, *(result.model for result in results)]
    outcome = evaluate(models, [data], baseline=0, settings=QUICK, output=f"{tmp_path}/kept").outcome
    assert [entry.name for entry in outcome.models] == ["small", "small-hardened", "small-hardened (2)"]
    export_model(model, f"{tmp_path}/m.pt2")
    Image.new("RGB", (40, 32)).save(tmp_path / "one.png")
    image, built = f"{tmp_path}/one.png", build_attacks(["pgd1"], epsilon=4 / 255, direction=1)
    assert len(score_files(model, [image])) == 1
    assert len(attack_images(model, [image], f"{tmp_path}/out", attacks=built)) == 1


def test_a_model_is_saved_without_a_recipe_and_one_that_stands_twice_is_refused(make_model, tmp_path: Path) -> None:
    model = make_model(scale=ScoreScale(0, 1))
    save_model(model, f"{tmp_path}/plain.safetensors")
    assert load_model(f"{tmp_path}/plain.safetensors").name == "plain"
    with pytest.raises(UsageError, match="repeated: small"):
        evaluate([model, model], [memory_dataset(8, 4)], settings=QUICK)


def test_an_image_is_scored_from_a_file_an_open_image_and_a_tensor(make_model, tmp_path: Path) -> None:
    model = make_model().train()
    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        found = [
            model.score(each) for each in (tmp_path / "one.png", f"{tmp_path}/one.png", image, pixels, pixels / 255)
        ]
    assert found == pytest.approx([found[0]] * 5)
    assert found[0] == pytest.approx(score_files(model, [tmp_path / "one.png"], device=torch.device("cpu"))[0][1])
    with pytest.raises(ArmorError, match=r"none\.png"):
        model.score(tmp_path / "none.png")


def test_what_a_notebook_shows_is_short(make_model) -> None:
    data, model = memory_dataset(40, 8), make_model(scale=ScoreScale(0, 1))
    assert repr(model) == "QualityModel 'small': own network, 11,049 parameters, images of 32x40, scores 0 to 1"
    assert repr(data) == "Dataset 'memory': 40 training, 8 test images"
    hardened = harden(model, data, Recipe(epochs=0))
    assert len(repr(hardened).splitlines()) == 1 + len(hardened.srocc)
    (line,) = repr(evaluate([model], [data], settings=QUICK)).splitlines()
    assert line.startswith("small ")
    assert "SROCC" in line
    assert "pgd1 +" in line


def mean_of(images: Tensor) -> Tensor:
    return images.square().mean((1, 2, 3))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_works_on_any_callable_without_a_generator(name: str) -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    quick = {"uap": "uap:passes=1", "facpa": "facpa:passes=1", "square": "square:queries=10"}
    attack = ATTACKS.read(quick.get(name, name))
    attacked = attack(mean_of, images)
    assert attacked.shape == images.shape
    assert torch.equal(attacked, attack(mean_of, images))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: PGD(epsilon=-1),
        lambda: Preprocessing(std=(0, 1, 1)),
        lambda: ScoreScale(1, 0),
        lambda: Recipe(epochs=-1),
    ],
)
def test_errors_of_settings_are_of_one_family(wrong) -> None:
    with pytest.raises(ArmorError):
        wrong()


@pytest.mark.parametrize("is_notebook", [True, False])
def test_notebooks_show_progress_by_themselves(
    is_notebook: bool, make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = SimpleNamespace(kernel=1) if is_notebook else SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    for number in range(2):
        Image.new("RGB", (40, 32)).save(tmp_path / f"{number}.png")
    score_files(make_model(), [tmp_path])
    told = capsys.readouterr()
    assert told.out == ""
    assert ("\rscoring: 1 of 2" in told.err) == is_notebook
    assert told.err.endswith("\n") == is_notebook
