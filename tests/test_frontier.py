"""Models between two ends: both ends to the bit, figures measured anew, the choice that keeps a promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import CPU, memory_dataset, small_network, write_images
from test_training import fit_small, images_of, normed, settings
from typer.testing import CliRunner

from iqa_armor import Preprocessing, save_model
from iqa_armor.artifact.storage import read_metadata
from iqa_armor.cli import app
from iqa_armor.errors import RecipeError, UsageError
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.pipeline.harden import harden
from iqa_armor.pipeline.hardened import FrontierPoint, choose_point, frontier, interpolated
from iqa_armor.pipeline.load import load_model
from iqa_armor.progress import silent
from iqa_armor.recipe import Recipe
from iqa_armor.training.images import predict

QUICK = Recipe(position="none", prune=0, epochs=2, learning_rate=3e-3, defense="teacher", frontier=5, select="robust")


def states(make_model) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    first, second = (normed(lambda seed=seed: make_model(seed)).state_dict() for seed in (0, 1))
    second["network.1.num_batches_tracked"] += 3
    return first, second


def test_the_ends_are_themselves_to_the_bit(make_model) -> None:
    start, end = states(make_model)
    for share, expected in ((0.0, start), (1.0, end)):
        assert all(torch.equal(expected[n], v) for n, v in interpolated(start, end, share).items())
    middle = interpolated(start, end, 0.25)
    name = "network.0.weight"
    torch.testing.assert_close(middle[name], 0.75 * start[name] + 0.25 * end[name])
    assert middle["network.1.num_batches_tracked"] == 3


def test_every_point_is_measured_and_the_model_is_left_as_it_was(make_model) -> None:
    model = normed(make_model)
    images = images_of(model)
    start, end = states(make_model)
    model.load_state_dict(end)
    points = frontier(model, start, images, count=4, sign=1.0, progress=silent)
    assert [point.share for point in points] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert all(torch.equal(end[n], v) for n, v in model.state_dict().items())
    assert all(torch.equal(start[n], v) for n, v in points[0].weights.items())
    assert all(torch.equal(end[n], v) for n, v in points[-1].weights.items())
    for point in points:
        model.load_state_dict(dict(point.weights))
        assert float(srocc(predict(model, images.held_out), images.held_out.mos)) == pytest.approx(point.srocc)
        assert point.worst_srocc <= point.srocc


def test_statistics_that_differ_are_those_of_training_images(make_model) -> None:
    model = normed(make_model)
    images = images_of(model)
    start, end = states(make_model)
    end["network.1.running_mean"] += 1
    model.load_state_dict(end)
    between = frontier(model, start, images, count=3, sign=1.0, progress=silent)[1]
    model.load_state_dict(dict(between.weights))
    pixels = torch.stack([images.fitted[i][0] for i in range(len(images.fitted))])
    reached = model.network[0](model.normalize(pixels)).mean((0, 2, 3))
    torch.testing.assert_close(model.network[1].running_mean, reached, atol=0.02, rtol=0.05)
    assert model.network[1].momentum == 0.1


@pytest.mark.parametrize(("drop", "share"), [(None, 0.5), (0.05, 0.5), (0.01, 0.0), (0.5, 1.0), (0, 0.0)])
def test_the_most_robust_point_that_keeps_the_promise_is_chosen(drop: float | None, share: float) -> None:
    points = [FrontierPoint(0, 0.8, -0.5, {}), FrontierPoint(0.5, 0.76, 0.4, {}), FrontierPoint(1, 0.5, 0.45, {})]
    assert choose_point(points, original=0.8, drop=drop).share == share


def test_a_promise_that_no_point_keeps_takes_the_cleanest() -> None:
    points = [FrontierPoint(0, 0.6, 0.1, {}), FrontierPoint(1, 0.5, 0.4, {})]
    assert choose_point(points, original=0.9, drop=0.1).share == 0


@pytest.mark.parametrize("turned", [False, True])
def test_hardening_keeps_the_chosen_model_and_offers_the_others(make_model, tmp_path: Path, turned: bool) -> None:
    model = make_model()
    if turned:
        with torch.no_grad():
            model.network[-1].weight.neg_()
        model = QualityModel(model.network, model.preprocessing, name="turned", higher_is_better=False)
    done = harden(model, memory_dataset(60, 8), QUICK, options=RunOptions(device=CPU))
    facts = done.provenance["frontier"]
    (kept,) = (point for point in facts if point["chosen"])
    assert len(facts) == 5
    assert sorted([*done.others, kept["share"]]) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert done.srocc["result"] == pytest.approx(kept["srocc"])
    done.save(tmp_path / "m.safetensors")
    again, images = load_model(tmp_path / "m.safetensors"), torch.rand(4, 3, 32, 40)
    assert torch.equal(again(images), done.model(images))
    moments = [(float(m.scale.low), float(m.scale.high)) for m in (done.model, *done.others.values())]
    assert all(low < high for low, high in moments)
    assert json.dumps(done.as_plain())


@pytest.mark.parametrize("views", [1, 2])
def test_a_share_of_the_way_is_the_frontiers_model_there(make_model, tmp_path: Path, views: int) -> None:
    recipe = QUICK.model_copy(update={"views": views})
    several = harden(make_model(), memory_dataset(60, 8), recipe, options=RunOptions(device=CPU))
    share = next(each for each in (0.25, 0.5, 0.75) if each in several.others)
    alone = recipe.model_copy(update={"frontier": 0, "share": share})
    one = harden(make_model(), memory_dataset(60, 8), alone, options=RunOptions(device=CPU))
    images = torch.rand(4, 3, 32, 40)
    assert torch.equal(one.model(images), several.others[share](images))
    assert one.provenance["frontier"] == []
    assert not one.others
    point = next(point for point in several.provenance["frontier"] if point["share"] == share)
    assert views > 1 or one.srocc["result"] == pytest.approx(point["srocc"])
    one.save(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors")(images).equal(one.model(images))


def test_a_frontier_measures_from_end_to_end_whatever_the_share(make_model) -> None:
    recipe = QUICK.model_copy(update={"share": 0.3, "frontier": 2})
    done = harden(make_model(), memory_dataset(60, 8), recipe, options=RunOptions(device=CPU))
    assert [point["share"] for point in done.provenance["frontier"]] == [0, 1]


@pytest.mark.parametrize(
    ("options", "is_told"), [(["--share", 0.25], True), ([], False), (["--share", 0.25, "--frontier", 2], False)]
)
def test_harden_tells_how_far_it_went(tmp_path: Path, options: list[object], is_told: bool) -> None:
    write_images(tmp_path / "images", count=24)
    save_model(QualityModel(small_network(), Preprocessing(size=(32, 40))), tmp_path / "m.safetensors")
    made = ("--position", "none", "--prune", 0, "--epochs", 1, "-o", tmp_path / "h.safetensors", *options)
    words = ("harden", tmp_path / "m.safetensors", "--data", f"csv:{tmp_path}/images/labels.csv", *made)
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.stderr
    assert ("25% of the way" in done.output) is is_told
    assert read_metadata(tmp_path / "h.safetensors")["recipe"]["share"] == (0.25 if options else 1.0)


def test_images_without_scores_are_taken_in_by_a_teacher_only(make_model) -> None:
    plain, more = memory_dataset(24, 8), memory_dataset(12, 8, seed=5)
    recipe, options = Recipe(position="none", prune=0, epochs=1, defense="teacher"), RunOptions(device=CPU)
    model = make_model()
    fit_small(model, settings(epochs=4))
    alone, both = (harden(model, plain, recipe, options=options, unlabelled=u) for u in (None, more))
    assert both.provenance["unlabelled"] == more.spec
    assert alone.fit.epochs[1].loss != both.fit.epochs[1].loss
    with pytest.raises(UsageError, match="teacher only"):
        harden(make_model(), plain, Recipe(epochs=1, defense="none"), options=options, unlabelled=more)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frontier": 1}, "two models"),
        ({"frontier": 3, "epochs": 0}, "fine-tuning"),
        ({"max_srocc_drop": 0.1}, "frontier 5"),
        ({"share": 0}, "share"),
        ({"share": 0.5, "epochs": 0, "defense": "none"}, "part of what fine-tuning changes"),
        ({"share": 1.1}, "share"),
    ],
)
def test_settings_that_make_no_frontier_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(**given)
