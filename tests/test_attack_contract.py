"""What every attack of the registry keeps, whatever it does."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from tables import rows_of
from torch import Generator, Tensor, nn
from white_subjects import draw_images, tiny

from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.base import Attack, Direction, ScoreFn
from iqa_armor.errors import ArmorError
from iqa_armor.evaluation.run import check_budget

# Fewer steps where there are many, and more draws where one start draws none.
QUICK: dict[str, dict[str, Any]] = {
    "square": {"queries": 60},
    "apgd": {"steps": 8, "restarts": 2},
    "facpa": {"passes": 8},
    "zhang": {"steps": 6},
    "ssah": {"steps": 6},
    "advcf": {"steps": 8},
    "stadv": {"iterations": 3},
}
DRAWS = ("square", "apgd", "auto", "sega", "facpa")
BLIND = ("square",)  # sees scores, no gradients
FREE = ("advcf",)  # without a budget that could be zero
every_attack = pytest.mark.parametrize("name", ATTACKS)
both_directions = pytest.mark.parametrize("direction", [1, -1])


def built(name: str, **changes: Any) -> Attack:
    attack: Any = ATTACKS[name]
    return replace(attack, **{**QUICK.get(name, {}), **changes})  # type: ignore[no-any-return]


def seeded(seed: int = 1) -> Generator:
    return Generator().manual_seed(seed)


def state_of(model: nn.Module) -> list[Any]:
    """Return the mode of every module; gradient flag, gradient and values of every parameter."""
    modes = [module.training for module in model.modules()]
    return [modes, *((each.requires_grad, each.grad, each.tolist()) for each in model.parameters())]


@every_attack
def test_it_describes_itself(name: str) -> None:
    attack = ATTACKS[name]
    assert isinstance(attack, Attack)
    assert attack.norm == {"stadv": "flow", "madc": "rmse", "advcf": "none", "l2pgd": "l2"}.get(name, "linf")
    assert ATTACKS.entries[name].says.endswith(".")
    assert {field.name for field in fields(attack)} >= {"direction"}  # type: ignore[arg-type]
    assert {row.name: row for row in rows_of(ATTACKS)}[name].settings["direction"] == 1


@both_directions
@pytest.mark.parametrize(
    ("count", "size", "dtype"),
    [(1, (16, 16), torch.float32), (3, (13, 21), torch.float32), (2, (17, 12), torch.float64)],
    ids=str,
)
@every_attack
def test_it_stays_in_its_budget_and_moves_the_score(
    name: str, count: int, size: tuple[int, int], dtype: torch.dtype, direction: Direction
) -> None:
    model, attack = tiny("smooth").to(dtype), built(name, direction=direction)
    images = draw_images(*size, count=count).to(dtype)
    before, state = images.clone(), state_of(model)
    attacked = attack(model, images, seeded())
    check_budget(name, attack, clean=images, attacked=attacked)
    assert (attacked.shape, attacked.dtype, attacked.requires_grad) == (images.shape, dtype, False)
    assert bool(attacked.isfinite().all())
    with torch.no_grad():
        assert float((direction * (model(attacked) - model(images))).mean()) > 0
    assert torch.equal(images, before)
    assert state_of(model) == state


@both_directions
@every_attack
def test_it_gains_on_a_linear_score(name: str, direction: Direction) -> None:
    images, weights = draw_images(14, 15), torch.randn(3, 14, 15, generator=seeded(0))

    def score(batch: Tensor) -> Tensor:
        return (batch * weights).mean((1, 2, 3))

    attacked = built(name, direction=direction)(score, images, seeded())
    gain = direction * (score(attacked) - score(images))
    assert float(gain.mean() if name in ("uap", "facpa", "sma") else gain.min()) > 0


@every_attack
def test_its_seed_decides_what_is_drawn(name: str) -> None:
    model, images = tiny("smooth"), draw_images()
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (built(name)(model, images, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert torch.equal(first, other) != (name in DRAWS)
    assert torch.equal(torch.random.get_rng_state(), state)


@every_attack
def test_a_flat_score_leaves_images_alone(name: str) -> None:
    images = draw_images()
    assert torch.equal(built(name)(lambda batch: 0 * batch.sum((1, 2, 3)), images, seeded()), images)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in FREE])
def test_no_budget_means_another_tensor_of_the_same_images(name: str) -> None:
    images = draw_images()
    attacked = replace(built(name), epsilon=0.0)(tiny("smooth"), images, seeded())
    assert torch.equal(attacked, images)
    assert attacked.data_ptr() != images.data_ptr()


@every_attack
def test_it_works_where_gradients_are_switched_off(name: str) -> None:
    model, images = tiny("relu"), draw_images()
    expected = built(name)(model, images, seeded())
    with torch.no_grad():
        assert torch.equal(built(name)(model, images, seeded()), expected)


@pytest.mark.parametrize("score", [lambda x: x.detach().mean((1, 2, 3)), lambda x: torch.ones(len(x))])
@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in BLIND])
def test_a_score_without_gradient_is_refused(name: str, score: ScoreFn) -> None:
    with pytest.raises(ArmorError, match="no gradient by the pixels"):
        built(name)(score, draw_images(), seeded())


@pytest.mark.parametrize("bad", [{"epsilon": -1.0}, {"epsilon": torch.inf}, {"epsilon": torch.nan}, {"direction": 0}])
@every_attack
def test_a_budget_or_direction_without_meaning_is_refused(name: str, bad: dict[str, float]) -> None:
    if name in FREE and "epsilon" in bad:
        pytest.skip("its budget cannot be set")
    with pytest.raises(ValueError, match=rf"^{type(ATTACKS[name]).__name__} needs {next(iter(bad))} .*, got "):
        built(name, **bad)
