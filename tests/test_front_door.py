"""Python's front door: paths as text, names that tell models apart."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from conftest import memory_dataset
from PIL import Image

import iqa_armor
from iqa_armor import EvaluationSettings, Recipe, ScoreScale, evaluate, export_model, harden, load_model, save_model
from iqa_armor.errors import UsageError
from iqa_armor.pipeline.attack import attack_images, build_attacks
from iqa_armor.pipeline.score import score_files

MODULES = ("attack", "bench", "certify", "harden", "load", "score", "train", "train_purifier")
QUICK = EvaluationSettings(attacks=("pgd1",), epsilons=(4 / 255,), resamples=10, limit=4)


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
