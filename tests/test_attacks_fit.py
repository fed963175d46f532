"""Attacks that learn from images before they are run: one pattern for all, and a network."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor
from white_subjects import tiny

from iqa_armor.attacks.base import Attack, Direction, Fitted, ScoreFn, frozen
from iqa_armor.attacks.learned import FACPA, UAP, Pattern, PerturbationNetwork, Perturber, place

BOTH: tuple[Direction, ...] = (1, -1)
EPSILON = 4 / 255
ATTACKS: dict[str, UAP | FACPA] = {"tile": UAP(), "resize": UAP(placement="resize"), "facpa": FACPA(passes=10)}


def drawn(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    images = torch.rand(count, 3, *size, generator=Generator().manual_seed(seed))
    images[0, :, :4], images[0, :, 4:8] = 0, 1  # pixels at both ends of the range
    return images


TRAINING = tuple(drawn(4, (16, 18), seed) for seed in range(3))
OTHERS = drawn(5, (19, 23), 9)


def seeded(seed: int = 1) -> Generator:
    return Generator().manual_seed(seed)


def fitted(attack: UAP | FACPA, score: ScoreFn, seed: int = 1) -> Attack:
    return attack.fit(score, lambda: TRAINING, seeded(seed))


def gain(score: ScoreFn, attacked: Tensor, images: Tensor) -> float:
    with torch.no_grad():
        return float((score(attacked) - score(images)).mean())


def noise_gains(score: ScoreFn, images: Tensor, count: int = 8) -> Tensor:
    """Return the mean gains of random sign patterns of the budget's size."""
    patterns = torch.randint(0, 2, (count, *images.shape[1:]), generator=seeded()).mul(2).sub(1) * EPSILON
    return torch.tensor([gain(score, (images + pattern).clamp(0, 1), images) for pattern in patterns])


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("name", ["smooth", "relu", "normed"])
def test_fitted_attack_beats_noise_on_other_images_of_another_size(
    name: str, attack: UAP | FACPA, direction: Direction
) -> None:
    model, before = tiny(name), [images.clone() for images in (*TRAINING, OTHERS)]
    learned = fitted(replace(attack, direction=direction), model)
    assert (learned.norm, learned.epsilon, learned.direction) == ("linf", EPSILON, direction)
    assert not isinstance(learned, Fitted)
    attacked = learned(model, OTHERS, seeded())
    assert (attacked - OTHERS).abs().max() <= EPSILON + 1e-7
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not attacked.requires_grad
    assert direction * gain(model, attacked, OTHERS) > (direction * noise_gains(model, OTHERS)).max()
    assert all(torch.equal(*pair) for pair in zip(before, (*TRAINING, OTHERS), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("name", ["smooth", "relu", "normed"])
def test_unfitted_attack_learns_from_the_images_it_is_given(
    name: str, attack: UAP | FACPA, direction: Direction
) -> None:
    model, images = tiny(name), OTHERS.clone()
    assert isinstance(attack, Fitted)
    attacked = replace(attack, direction=direction)(model, images, seeded())
    assert (attacked - images).abs().max() <= EPSILON + 1e-7
    assert direction * gain(model, attacked, images) > (direction * noise_gains(model, images)).max()
    assert torch.equal(images, OTHERS)
    alone = replace(attack, direction=direction).fit(model, lambda: [images], seeded())
    assert torch.equal(attacked, alone(model, images, seeded()))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_same_seed_gives_the_same_bits_and_the_global_generator_is_left_alone(attack: UAP | FACPA) -> None:
    model = tiny("smooth")
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = fitted(attack, model)(model, OTHERS, seeded())
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(first, fitted(attack, model)(model, OTHERS, seeded(2)))
    other_seed = fitted(attack, model, seed=2)(model, OTHERS, seeded())
    assert torch.equal(first, other_seed) is isinstance(attack, UAP)  # UAP draws nothing


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (7, 40), (33, 19)])
def test_fitted_attack_takes_any_size_and_treats_images_alone(attack: UAP | FACPA, size: tuple[int, int]) -> None:
    learned = fitted(attack, tiny("relu"))
    images = torch.rand(3, 3, *size, generator=seeded())
    together = learned(tiny("relu"), images, seeded())
    assert together.shape == images.shape
    assert (together - images).abs().max() <= EPSILON + 1e-7
    for one, image in zip(together, images, strict=True):
        torch.testing.assert_close(learned(tiny("relu"), image[None], seeded())[0], one, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_fitting_works_with_batches_of_different_sizes_and_where_gradients_are_off(attack: UAP | FACPA) -> None:
    model = tiny("normed")
    batches = [drawn(3, (17, 13)), drawn(1, (12, 21), 1), drawn(2, (30, 14), 2)]
    with torch.no_grad(), frozen(model):
        learned = attack.fit(model, lambda: iter(batches), seeded())
        for images in batches:
            assert gain(model, learned(model, images, seeded()), images) > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_images_keep_their_type(attack: UAP | FACPA, dtype: torch.dtype) -> None:
    model = tiny("smooth").to(dtype)
    attacked = replace(attack, passes=3)(model, OTHERS.to(dtype), seeded())
    assert attacked.dtype == dtype
    assert gain(model, attacked, OTHERS.to(dtype)) > 0


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_where_every_step_makes_it_worse_nothing_is_changed(attack: UAP | FACPA, direction: Direction) -> None:
    clean = torch.full((2, 3, 8, 8), 0.5)

    def score(images: Tensor) -> Tensor:  # clean images are the optimum, seen from a slope that points away from it
        distance = (images - 0.5).mean((1, 2, 3))
        return -direction * (distance.abs() - 2 * (distance - distance.detach()))

    attacked = replace(attack, direction=direction)(score, clean, seeded())
    assert torch.equal(attacked, clean)


@pytest.mark.parametrize("batches", [[], [torch.empty(0, 3, 8, 8)]])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_fitting_without_images_is_refused(attack: UAP | FACPA, batches: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="cannot be fitted without images"):
        attack.fit(tiny("smooth"), lambda: batches, seeded())


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_batches_that_give_one_pass_only_are_refused(attack: UAP | FACPA) -> None:
    only_once = iter(TRAINING)
    with pytest.raises(ValueError, match="every pass"):
        attack.fit(tiny("smooth"), lambda: only_once, seeded())


@pytest.mark.parametrize(
    ("attack", "changes", "match"),
    [
        (UAP(), {"epsilon": -0.1}, r"UAP needs epsilon in \[0, inf\)"),
        (UAP(), {"epsilon": float("nan")}, "UAP needs epsilon"),
        (UAP(), {"step_size": 0.0}, r"step_size in \(0, inf\)"),
        (UAP(), {"passes": 0}, r"passes in \[1, inf\)"),
        (UAP(), {"direction": 0}, "direction out of 1, -1, got 0"),
        (UAP(), {"placement": "middle"}, "placement out of resize, tile, got 'middle'"),
        (FACPA(), {"epsilon": float("inf")}, "FACPA needs epsilon"),
        (FACPA(), {"learning_rate": 0.0}, "FACPA needs learning_rate"),
        (FACPA(), {"passes": 0}, "FACPA needs passes"),
        (FACPA(), {"direction": 2}, "direction out of 1, -1, got 2"),
        (Pattern(torch.zeros(1, 3, 2, 2)), {"epsilon": -1.0}, "Pattern needs epsilon"),
        (Pattern(torch.zeros(1, 3, 2, 2)), {"placement": ""}, "Pattern needs placement out of"),
        (Pattern(torch.zeros(1, 3, 2, 2)), {"pattern": torch.zeros(3, 2, 2)}, r"\(1, 3, h, w\), got \(3, 2, 2\)"),
        (Perturber(PerturbationNetwork()), {"epsilon": -1.0}, "Perturber needs epsilon"),
    ],
)
def test_values_out_of_range_are_refused(attack: Attack, changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(attack, **changes)  # type: ignore[type-var]


def weighted(weights: dict[tuple[int, int], Tensor]) -> ScoreFn:
    """Return a linear score with weights of its own for every image size."""
    return lambda images: (images * weights[tuple(images.shape[-2:])]).sum((1, 2, 3))


def test_pattern_of_a_linear_score_is_the_sign_of_its_weights() -> None:
    weights = torch.randn(1, 3, 6, 5, generator=seeded())
    learned = UAP().fit(weighted({(6, 5): weights}), lambda: [torch.full((2, 3, 6, 5), 0.5)], seeded())
    torch.testing.assert_close(learned.pattern, EPSILON * weights.sign())


def test_gradients_of_other_sizes_come_back_by_the_adjoint_of_the_placement() -> None:
    weights = torch.randn(1, 3, 7, 6, generator=seeded())
    score = weighted({(4, 3): torch.zeros(1, 3, 4, 3), (7, 6): weights})
    batches = [torch.full((2, 3, 4, 3), 0.5), torch.full((1, 3, 7, 6), 0.5)]
    tiled = torch.zeros(1, 3, 4, 3)
    for row in range(7):
        for column in range(6):
            tiled[..., row % 4, column % 3] += weights[..., row, column]
    learned = UAP().fit(score, lambda: batches, seeded())
    torch.testing.assert_close(learned.pattern, EPSILON * tiled.sign())
    resized = UAP(placement="resize").fit(score, lambda: batches, seeded()).pattern
    matrix = torch.stack([place(unit.view(1, 3, 4, 3), (7, 6), "resize").flatten() for unit in torch.eye(36)])
    torch.testing.assert_close(resized.flatten(), EPSILON * (matrix @ weights.flatten()).sign())


@pytest.mark.parametrize("placement", ["tile", "resize"])
def test_universal_pattern_does_not_depend_on_how_images_are_batched(placement: str) -> None:
    model, attack = tiny("smooth"), UAP(placement=placement, passes=4)  # type: ignore[arg-type]
    split = [image for images in TRAINING for image in images.split(1)]
    alone, together = attack.fit(model, lambda: split, seeded()), fitted(attack, model)
    differing = (alone.pattern != together.pattern).float().mean()  # signs of gradients that rounding makes zero
    assert differing < 0.01


def test_more_passes_never_lower_the_mean_score() -> None:
    model = tiny("smooth")
    means = [
        sum(gain(model, fitted(UAP(passes=passes), model)(model, images, seeded()), images) for images in TRAINING)
        for passes in (1, 2, 4, 8)
    ]
    assert all(later >= earlier - 1e-7 for earlier, later in pairwise(means))
    assert means[-1] > 1.5 * means[0]


def test_placement_tiles_and_crops_or_interpolates() -> None:
    pattern = torch.rand(1, 3, 2, 3, generator=seeded()) - 0.5
    tiled = place(pattern, (5, 4), "tile")
    assert torch.equal(tiled[..., 4, 3], pattern[..., 0, 0])
    assert torch.equal(tiled[..., :2, :3], pattern)
    resized = place(pattern, (5, 4), "resize")
    assert resized.shape == (1, 3, 5, 4)
    assert resized.abs().max() <= pattern.abs().max()
    assert torch.equal(place(pattern, (1, 2), "tile"), pattern[..., :1, :2])


def test_pattern_larger_than_the_budget_is_clipped() -> None:
    attacked = Pattern(torch.full((1, 3, 2, 2), 0.5), epsilon=0.01)(tiny("relu"), OTHERS, seeded())
    assert (attacked - OTHERS).abs().max() <= 0.01 + 1e-7


def test_unit_of_the_score_does_not_matter_to_the_network() -> None:
    model = tiny("smooth")
    plain = fitted(FACPA(passes=3), model)(model, OTHERS, seeded())
    scaled = fitted(FACPA(passes=3), lambda images: 1024 * model(images))(model, OTHERS, seeded())
    assert torch.equal(plain, scaled)
    assert not torch.equal(plain, OTHERS)


def test_network_is_small_and_starts_without_a_change() -> None:
    network = PerturbationNetwork()
    assert 20_000 < sum(parameter.numel() for parameter in network.parameters()) < 60_000
    assert torch.equal(network(OTHERS), torch.zeros_like(OTHERS))


def test_fitted_network_is_not_moved_or_trained_by_running_it() -> None:
    model = tiny("relu")
    learned = FACPA(passes=2).fit(model, lambda: TRAINING, seeded())
    before = [parameter.clone() for parameter in learned.network.parameters()]
    learned(model, OTHERS.double(), seeded())
    assert all(torch.equal(*pair) for pair in zip(before, learned.network.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in learned.network.parameters())
