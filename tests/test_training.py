"""Losses and fitting."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import CPU, memory_dataset

from iqa_armor.data.base import Dataset
from iqa_armor.errors import ArmorError, DataError
from iqa_armor.graph.trace import trace
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.fitting import moments_of
from iqa_armor.pipeline.harden import harden
from iqa_armor.pipeline.train import STRENGTHS, probe_head, train
from iqa_armor.progress import silent
from iqa_armor.recipe import Recipe, Training
from iqa_armor.training import LOSSES
from iqa_armor.training.descent import AveragedWeights, Diverged, LossWatch
from iqa_armor.training.fit import fit
from iqa_armor.training.history import FitHistory
from iqa_armor.training.images import TrainingImages, load_training_images, predict
from iqa_armor.training.losses import norm_in_norm, plcc_loss


def images_of(model: QualityModel, count: int = 60) -> TrainingImages:
    return load_training_images(memory_dataset(count).training(), model, silent)


def fit_small(model: QualityModel, settings: Training, *, turned: bool = False, **options: Any) -> FitHistory:
    """Fit to sixty images of noise whose scores follow their contrast."""
    images = options.pop("images", None) or images_of(model)
    labels = moments_of(images.mos, turned=turned)
    return fit(model, images, settings, labels=labels, **{"device": CPU, **options})


def settings(**changes: object) -> Training:
    return Training(**{"epochs": 3, "learning_rate": 3e-3, "batch_size": 8, **changes})


def test_norm_in_norm_by_hand() -> None:
    # Centred (-1, 0, 1) / sqrt 2 against (1, 0, -1) / sqrt 2: distance 2 sqrt 2, divided by 2 sqrt 3.
    value = norm_in_norm(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([30.0, 20.0, 10.0]))
    torch.testing.assert_close(value, torch.tensor(2 * 2**0.5 / (2 * 3**0.5)))


@pytest.mark.parametrize("loss", [norm_in_norm, plcc_loss])
def test_scale_free_losses_ignore_unit_and_offset(loss) -> None:
    scores, mos = torch.tensor([0.1, 0.4, 0.2]), torch.tensor([10.0, 35.0, 30.0])
    torch.testing.assert_close(loss(scores, mos), loss(5 * scores - 2, mos / 7))
    torch.testing.assert_close(loss(mos, mos), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_plcc_loss_and_mse_by_hand() -> None:
    scores, mos = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([2.0, 1.0, 0.0])
    torch.testing.assert_close(plcc_loss(scores, mos), torch.tensor(1.0))
    torch.testing.assert_close(LOSSES["mse"](scores, mos), torch.tensor(8 / 3))


@pytest.mark.parametrize("name", LOSSES)
def test_constant_scores_give_finite_gradients(name: str) -> None:
    scores = torch.full((4,), 0.5, requires_grad=True)
    LOSSES.read(name)(scores, torch.arange(4.0)).backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_fitting_learns_the_order_of_held_out_images(make_model, loss: str) -> None:
    model = make_model()
    done = fit_small(model, settings(epochs=6, loss=loss))
    assert done.epochs[done.best].srocc > 0.8
    assert [epoch.number for epoch in done.epochs] == list(range(7))


def test_model_holds_the_best_epoch_in_eval_mode(make_model) -> None:
    model = make_model()
    data = images_of(model)
    done = fit_small(model, settings(epochs=4), images=data)
    best = max(epoch.srocc for epoch in done.epochs)
    assert float(srocc(predict(model, data.held_out), data.held_out.mos)) == pytest.approx(best)
    assert not model.training


def test_same_seed_gives_the_same_weights(make_model) -> None:
    states = []
    for _ in range(2):
        model = make_model()
        fit_small(model, settings(epochs=2))
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_largest_seed_is_a_seed(make_model) -> None:
    assert fit_small(make_model(), settings(epochs=1, seed=2**63 - 1)).best == 1


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_change(make_model) -> None:
    model = make_model()
    with torch.no_grad():
        model.network[0].weight.fill_(float("inf"))
    with pytest.raises(ArmorError, match="--learning-rate"):
        fit_small(model, settings(epochs=1))


@pytest.mark.parametrize("defense", ["none", "at", "teacher"])
def test_a_loss_that_runs_away_begins_anew_with_smaller_steps(make_model, defense: str, caplog) -> None:
    model = make_model()
    done = fit_small(model, settings(epochs=3, learning_rate=0.3, clip=0, defense=defense))
    assert done.learning_rate == pytest.approx(0.075)
    assert "ran away" in caplog.text
    assert all(epoch.loss < 20 for epoch in done.epochs[1:])


def test_a_loss_that_runs_away_at_every_step_size_is_an_error(make_model) -> None:
    with pytest.raises(ArmorError, match=r"ran away.*even at a step size of 0\.625.*--learning-rate"):
        fit_small(make_model(), settings(epochs=20, learning_rate=10, clip=0))


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("defense", ["none", "at"])
def test_a_fit_of_few_steps_that_ran_away_at_its_end_is_an_error(make_model, epochs: int, defense: str) -> None:
    steps = settings(epochs=epochs, batch_size=30, learning_rate=10, clip=0, defense=defense)
    with pytest.raises(ArmorError, match=r"ran away: .* at last.*--learning-rate"):
        fit_small(make_model(), steps)


def test_a_resumed_watch_knows_how_the_loss_began() -> None:
    watch, resumed = (LossWatch(LOSSES["mse"], torch.tensor([-1.0, 1.0])) for _ in range(2))
    for loss in (2.0, 3.0, 4.0):
        watch.see(torch.tensor(loss))
    resumed.load_state_dict(watch.state_dict())
    resumed.check()
    resumed.see(torch.tensor(1e9))
    with pytest.raises(Diverged, match="at most 8 is sane"):
        resumed.check()


def test_no_epoch_is_worse_than_the_start(make_model) -> None:
    model = make_model()
    images = images_of(model)
    fit_small(model, settings(epochs=6), images=images)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images.fitted.mos.neg_()
    done = fit_small(model, settings(epochs=2), images=images)
    assert done.best == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def normed(make_model) -> QualityModel:
    network = make_model().network
    network.insert(1, torch.nn.BatchNorm2d(16))
    return QualityModel(network, Preprocessing(size=(32, 40), mean=(0.5,) * 3, std=(0.25,) * 3))


@pytest.mark.parametrize(
    ("norms", "is_pretrained", "batch_size", "stay"),
    [
        ("auto", True, 8, True),
        ("auto", True, 32, False),
        ("auto", False, 8, False),
        ("frozen", False, 32, True),
        ("batch", True, 8, False),
    ],
)
def test_statistics_of_norms(make_model, norms: str, is_pretrained: bool, batch_size: int, stay: bool) -> None:
    model = normed(make_model)
    norm, before = model.network[1], model.network[1].weight.detach().clone()
    fit_small(model, settings(epochs=1, norms=norms, batch_size=batch_size), is_pretrained=is_pretrained)
    assert bool((norm.running_mean == 0).all()) is stay
    assert not torch.equal(norm.weight, before)


def test_the_average_of_the_weights_by_hand() -> None:
    layer = torch.nn.Linear(1, 1)
    values = [1.0, 5.0, -2.0]
    expected, average = float(layer.weight.detach()), AveragedWeights(layer, decay=0.2)
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            layer.weight.fill_(value)
        average.update()
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.in_place():
        assert float(layer.weight) == pytest.approx(expected)
    assert float(layer.weight) == values[-1]


def test_the_average_of_the_weights_is_kept(make_model) -> None:
    images, models = images_of(make_model()), [make_model(), make_model()]
    for model, ema in zip(models, (0.0, 0.999), strict=True):
        fit_small(model, settings(epochs=1, ema=ema), images=images)
    last, mean = (model.state_dict()["network.0.weight"] for model in models)
    assert not torch.equal(last, mean)


@pytest.mark.parametrize("select", ["robust", "balanced"])
def test_the_epoch_is_chosen_by_the_goal(make_model, select: str) -> None:
    model = make_model()
    done = fit_small(model, settings(epochs=4, select=select, defense="teacher"))
    merits = [epoch.merit(select) for epoch in done.epochs]  # type: ignore[arg-type]
    assert done.best == merits.index(max(merits))
    worst = [epoch.worst_srocc for epoch in done.epochs]
    assert all(value is not None and value <= epoch.srocc for value, epoch in zip(worst, done.epochs, strict=True))
    assert f"under attack {worst[1]:.3f}" in str(done.epochs[1])


def test_a_probe_is_the_ridge_regression_of_scores_on_pooled_features(make_model) -> None:
    model = make_model()
    traced = QualityModel(trace(model.network, torch.rand(1, 3, 32, 40)), model.preprocessing)
    images, head = images_of(model), model.network[-1]
    labels = moments_of(images.mos)
    found = probe_head(traced, images, labels, fresh=None, progress=silent)
    scores = predict(traced, images.held_out)
    assert found == pytest.approx(float(srocc(scores, images.held_out.mos)))
    assert found > 0.5
    # By hand: features of the layer, the normal equations, the strength with the smallest held-out error.
    seen: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0].double()))
    predict(model, images.fitted, batch_size=1000)
    predict(model, images.held_out, batch_size=1000)
    known, held = seen
    mean, std = known.mean(0), known.std(0)
    unit, wanted = (known - mean) / std, (images.mos.double() - labels.center) / labels.spread
    errors = []
    for strength in STRENGTHS:
        matrix = unit.T @ unit + strength * torch.linalg.svdvals(unit).square().mean() * torch.eye(unit.shape[1])
        weight = torch.linalg.solve(matrix, unit.T @ (wanted - wanted.mean()))
        guess = ((held - mean) / std) @ weight + wanted.mean()
        errors.append((float((guess - (images.held_out.mos - labels.center) / labels.spread).square().mean()), guess))
    torch.testing.assert_close(scores.double(), min(errors, key=lambda each: each[0])[1], rtol=1e-3, atol=1e-3)


def test_a_head_that_is_not_new_is_left_alone(make_model) -> None:
    model = make_model()
    traced = QualityModel(trace(model.network, torch.rand(1, 3, 32, 40)), model.preprocessing)
    before = {name: value.clone() for name, value in traced.state_dict().items()}
    images = images_of(model)
    assert probe_head(traced, images, moments_of(images.mos), fresh=("0.weight",), progress=silent) is None
    assert all(torch.equal(before[name], value) for name, value in traced.state_dict().items())


@pytest.mark.parametrize("work", [harden, train, load_training_images])
def test_images_of_several_sizes_are_refused(make_model, work: Any) -> None:
    model, dataset = QualityModel(make_model().network, Preprocessing(size=None)), memory_dataset(24)
    images = dataset.training()
    narrow = replace(images, read=lambda index: images.read(index)[..., : 32 + 8 * (index % 2)])
    mixed = Dataset("mixed", {"training": narrow})
    arguments = (narrow, model, silent) if work is load_training_images else (model, mixed, Recipe(epochs=1))
    with pytest.raises(DataError, match=r"32x32 and 32x40.*--input-size"):
        work(*arguments)


def test_lower_is_better_models_learn_to_fall(make_model) -> None:
    model = make_model()
    images = images_of(model)
    done = fit_small(model, settings(epochs=6), images=images, turned=True)
    assert done.epochs[done.best].srocc > 0.8
    assert float(srocc(predict(model, images.held_out), images.held_out.mos)) < -0.8
