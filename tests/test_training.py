"""Losses, fitting, resuming."""

from pathlib import Path

import pytest
import torch
from conftest import CPU, memory_dataset

from iqa_armor.data.base import held_out
from iqa_armor.data.prepared import load_prepared
from iqa_armor.errors import ArmorError, DataError, RecipeError
from iqa_armor.recipe import Training
from iqa_armor.training import FitData, fit, predict
from iqa_armor.training.checkpoint import read_checkpoint, write_atomically
from iqa_armor.training.losses import LOSSES, mse, norm_in_norm, plcc_loss


def fit_data(model, count: int = 60) -> FitData:
    parts = [load_prepared(part, model.prepare) for part in held_out(memory_dataset(count).training())]
    mos = parts[0].mos
    return FitData(*parts, center=float(mos.mean()), spread=float(mos.std()))


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
    torch.testing.assert_close(mse(scores, mos), torch.tensor(8 / 3))


@pytest.mark.parametrize("name", LOSSES)
def test_constant_scores_give_finite_gradients(name: str) -> None:
    scores = torch.full((4,), 0.5, requires_grad=True)
    LOSSES[name](scores, torch.arange(4.0)).backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_fitting_learns_the_order_of_held_out_images(make_model, loss: str) -> None:
    model = make_model()
    done = fit(model, fit_data(model), settings(epochs=6, loss=loss), device=CPU)
    assert done.epochs[done.best].srocc > 0.8
    assert [epoch.number for epoch in done.epochs] == list(range(7))


def test_model_holds_the_best_epoch_in_eval_mode(make_model) -> None:
    model = make_model()
    data = fit_data(model)
    done = fit(model, data, settings(epochs=4), device=CPU)
    from iqa_armor.metrics import srocc

    best = max(epoch.srocc for epoch in done.epochs[1:])
    assert float(srocc(predict(model, data.held_out), data.held_out.mos)) == pytest.approx(best)
    assert not model.training


def test_same_seed_gives_the_same_weights(make_model) -> None:
    states = []
    for _ in range(2):
        model = make_model()
        fit(model, fit_data(model), settings(epochs=2), device=CPU)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_resumed_fit_equals_an_uninterrupted_one(make_model, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop_after_two(done: int, total: int, epoch) -> None:
        if epoch is None and done > 2 * total // 4:
            raise Stopped

    whole, parts = make_model(), make_model()
    uninterrupted = fit(whole, fit_data(whole), settings(epochs=4), device=CPU)
    options = {"device": CPU, "checkpoint": tmp_path / "resume.pt", "fingerprint": "f"}
    with pytest.raises(Stopped):
        fit(parts, fit_data(parts), settings(epochs=4), on_step=stop_after_two, **options)
    again = make_model(seed=5)
    resumed = fit(again, fit_data(again), settings(epochs=4), resume=True, **options)
    assert resumed.best == uninterrupted.best
    assert [e.loss for e in resumed.epochs[1:]] == [e.loss for e in uninterrupted.epochs[1:]]
    for key, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    write_atomically({"fingerprint": "one"}, tmp_path / "resume.pt")
    with pytest.raises(RecipeError, match="other settings"):
        read_checkpoint(tmp_path / "resume.pt", fingerprint="two")


def test_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "resume.pt").write_bytes(b"no checkpoint")
    with pytest.raises(RecipeError, match="without --resume"):
        read_checkpoint(tmp_path / "resume.pt", fingerprint="f")


def test_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    write_atomically({"fingerprint": "f", "step": 1}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        write_atomically({"fingerprint": "f", "step": lambda: None}, path)
    assert read_checkpoint(path, fingerprint="f")["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_diverging_loss_is_an_error_that_says_what_to_change(make_model) -> None:
    model = make_model()
    with torch.no_grad():
        model.network[0].weight.fill_(float("inf"))
    with pytest.raises(ArmorError, match="--learning-rate"):
        fit(model, fit_data(model), settings(epochs=1), device=CPU)


def test_images_of_several_sizes_are_refused(make_model) -> None:
    model = make_model()
    data = fit_data(model)
    data.training.stored[0] = torch.zeros(3, 8, 8)
    with pytest.raises(DataError, match="--input-size"):
        fit(model, data, settings(), device=CPU)


def test_lower_is_better_models_learn_to_fall(make_model) -> None:
    model = make_model()
    data = fit_data(model)
    falling = FitData(data.training, data.held_out, center=data.center, spread=-data.spread)
    done = fit(model, falling, settings(epochs=6), device=CPU)
    assert done.epochs[done.best].srocc > 0.8
    from iqa_armor.metrics import srocc

    assert float(srocc(predict(model, data.held_out), data.held_out.mos)) < -0.8
