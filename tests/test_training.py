"""Losses and fitting."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import CPU, memory_dataset

from iqa_armor.data.base import Dataset
from iqa_armor.errors import ArmorError, DataError
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.fitting import moments_of
from iqa_armor.pipeline.harden import harden, plan
from iqa_armor.pipeline.train import train
from iqa_armor.progress import silent
from iqa_armor.recipe import Recipe, Training
from iqa_armor.training import LOSSES
from iqa_armor.training.fit import FitHistory, fit
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
    best = max(epoch.srocc for epoch in done.epochs[1:])
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


def test_diverging_loss_is_an_error_that_says_what_to_change(make_model) -> None:
    model = make_model()
    with torch.no_grad():
        model.network[0].weight.fill_(float("inf"))
    with pytest.raises(ArmorError, match="--learning-rate"):
        fit_small(model, settings(epochs=1))


@pytest.mark.parametrize("work", [plan, harden, train, load_training_images])
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
