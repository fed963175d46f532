from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

import iqa_armor
from iqa_armor.artifact.storage import load_artifact
from iqa_armor.models.base import QualityModel
from iqa_armor.models.demo import DEMO_PREPROCESSING, demo_network
from iqa_armor.recipe import Training

ROOT = Path(__file__).parents[1]
ASSET = Path(iqa_armor.__file__).parent / "assets" / "demo.safetensors"
SCRIPT = ROOT / "examples" / "train_demo_model.py"
PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "nips2017" / "images"


@cache
def training_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_demo_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_demo_model"] = module
    spec.loader.exec_module(module)
    return module


@cache
def shipped() -> QualityModel:
    return load_artifact(ASSET).eval()


@pytest.mark.parametrize("size", [(64, 64), (192, 256), (299, 299), (101, 67)])
def test_network_gives_one_score_at_any_size(size: tuple[int, int]) -> None:
    network = demo_network().eval()
    assert network(torch.zeros(2, 3, *size)).shape == (2, 1)


def test_shipped_file_is_small_and_complete() -> None:
    assert ASSET.stat().st_size <= 8 * 2**20
    model = shipped()
    assert model.preprocessing == DEMO_PREPROCESSING
    assert model.scale is not None
    assert model.scale.higher_is_better
    assert model(torch.rand(2, 3, 192, 256)).shape == (2,)


def test_shipped_weights_have_the_widths_of_the_architecture() -> None:
    expected = sorted(tuple(p.shape) for p in demo_network().parameters())
    assert sorted(tuple(p.shape) for p in shipped().parameters()) == expected


def test_recorded_figures_belong_to_the_script_and_hold_the_requirement() -> None:
    record = json.loads((ROOT / "examples" / "demo_model.json").read_text(encoding="utf-8"))
    script = training_script()
    assert Training().model_dump() | record["settings"] == script.SETTINGS.model_dump()
    assert record["data"]["spec"] == " + ".join(script.DATA)
    assert all(medians["all"] >= 0.85 for medians in record["severity_correlation"].values())


def test_score_follows_severity_on_synthetic_scenes_never_seen() -> None:
    script = training_script()
    correlations = script.severity_correlation(shipped(), script.unseen_scenes(6))
    assert statistics.median(value for values in correlations.values() for value in values) >= 0.85


def test_score_follows_severity_on_photographs_never_seen() -> None:
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("no photographs beside this checkout: only synthetic scenes were measured")
    script = training_script()
    correlations = script.severity_correlation(shipped(), script.photographs(PHOTOGRAPHS)[::8])
    assert len(correlations["jpeg"]) >= 10
    for kind, values in correlations.items():
        assert statistics.median(values) >= 0.85, kind
