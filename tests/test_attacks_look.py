"""What every attack that cares for the look of the image has to keep; the special properties stand elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from white_subjects import tiny

from iqa_armor.attacks.base import Attack, Direction
from iqa_armor.attacks.perceptual import SSAH, KorhonenYou, Zhang, edge_map
from iqa_armor.attacks.pgd import MADC
from iqa_armor.attacks.transforms import PIECES, AdvCF, StAdv, apply_curve, project_curve, warp

EPSILON = 10 / 255
# The classes' own defaults, but for fewer steps where there are many.
ALL: dict[str, Any] = {
    "stadv": StAdv(),
    "korhonen": KorhonenYou(),
    "zhang": Zhang(steps=10),
    "madc": MADC(),
    "ssah": SSAH(steps=10),
    "advcf": AdvCF(),
}
MODELS = ("smooth", "relu", "normed")
every_attack = pytest.mark.parametrize("attack", ALL.values(), ids=ALL)
every_model = pytest.mark.parametrize("model_name", MODELS)
both_directions = pytest.mark.parametrize("direction", [1, -1])


@pytest.fixture
def images() -> Tensor:
    drawn = torch.rand(3, 3, 19, 16, generator=Generator().manual_seed(0))
    drawn[0, :, :4], drawn[0, :, 4:8] = 0, 1  # pixels at both ends of the range
    return drawn


def gain(model: nn.Module, attack: Attack, images: Tensor) -> Tensor:
    attacked = attack(model, images, Generator())
    with torch.no_grad():
        return attack.direction * (model(attacked) - model(images))


def random_flow(images: Tensor, generator: Generator) -> Tensor:
    flow = functional.avg_pool2d(torch.randn(len(images), 2, 21, 18, generator=generator), 3, stride=1)
    return warp(images, flow / flow.norm(dim=1).amax((1, 2))[:, None, None, None])


def random_signs(images: Tensor, generator: Generator) -> Tensor:
    return images + EPSILON * torch.randn(images.shape, generator=generator).sign()


def random_edges(images: Tensor, generator: Generator) -> Tensor:
    return images + EPSILON * edge_map(images) * torch.randn(images.shape, generator=generator).sign()


def random_error(images: Tensor, generator: Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=generator)
    return images + EPSILON * noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()


def random_curve(images: Tensor, generator: Generator) -> Tensor:
    # Curves that are as smooth as those of photographs' filters, and as far from the identity as allowed.
    rises = torch.rand(len(images), 3, 4, generator=generator).repeat_interleave(PIECES // 4, dim=2)
    return apply_curve(images, project_curve(rises, ALL["advcf"].strength))


NOISE: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "stadv": random_flow,
    "korhonen": random_edges,
    "zhang": random_signs,
    "madc": random_error,
    "ssah": random_signs,
    "advcf": random_curve,
}


@both_directions
@every_model
@pytest.mark.parametrize("name", ALL)
def test_attack_moves_scores_and_beats_noise_of_its_own_kind(
    name: str, model_name: str, direction: Direction, images: Tensor
) -> None:
    model, before = tiny(model_name), images.clone()
    moved = gain(model, replace(ALL[name], direction=direction), images)
    noisy = NOISE[name](images, Generator().manual_seed(1)).clamp(0, 1)
    with torch.no_grad():
        by_noise = direction * (model(noisy) - model(images))
    assert (moved > 0).all()
    assert (moved > by_noise).all()
    assert torch.equal(images, before)


@every_model
@every_attack
def test_images_of_a_batch_do_not_influence_one_another(attack: Any, model_name: str, images: Tensor) -> None:
    model, batch = tiny(model_name).double(), images.double()
    together = attack(model, batch, Generator())
    alone = torch.cat([attack(model, image[None], Generator()) for image in batch])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@every_attack
def test_score_units_do_not_matter(attack: Any, images: Tensor) -> None:
    model, batch = tiny("smooth").double(), images.double()
    one = attack(model, batch, Generator())
    other = attack(lambda x: 1024 * model(x) - 7, batch, Generator())
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(11, 29), (32, 17), (27, 33)])
@every_attack
def test_odd_and_oblong_images_are_attacked(attack: Any, size: tuple[int, int]) -> None:
    drawn = torch.rand(2, 3, *size, generator=Generator().manual_seed(2))
    assert (gain(tiny("smooth"), replace(attack, direction=-1), drawn) > 0).all()


@every_attack
def test_images_without_gain_come_back_unchanged(attack: Any, images: Tensor) -> None:
    def peaked(batch: Tensor) -> Tensor:  # largest at the clean images, with a slope that promises more
        away = (batch - images.double()).flatten(1)
        return 1e-6 * away.sum(1) - away.abs().sum(1)

    attacked = attack(peaked, images.double(), Generator())
    assert torch.equal(attacked, images.double())


@every_attack
def test_half_precision_is_attacked_in_half_precision(attack: Any, images: Tensor) -> None:
    model, halved = tiny("relu").bfloat16(), images.bfloat16()
    attacked = attack(model, halved, Generator())
    assert attacked.dtype == torch.bfloat16
    assert (gain(model, attack, halved).float().mean() > 0).all()


BAD: dict[str, dict[str, Any]] = {
    "stadv": {"epsilon": -1.0, "smoothness": -0.1, "iterations": 0, "inner_steps": 0, "learning_rate": 0.0},
    "korhonen": {"epsilon": float("nan"), "step_size": 0.0, "steps": 0},
    "zhang": {"epsilon": float("inf"), "distance": "mse", "weight": -1.0, "step_size": -1.0, "steps": 0},
    "madc": {"epsilon": -0.1, "step_size": float("nan"), "steps": 0},
    "ssah": {"epsilon": -0.1, "weight": float("inf"), "step_size": 0.0, "steps": -1},
    "advcf": {"strength": 1.1, "learning_rate": 0.0, "steps": 0},
}


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(name, key, value) for name, keys in BAD.items() for key, value in {**keys, "direction": 0}.items()],
)
def test_impossible_settings_are_refused(name: str, key: str, value: Any) -> None:
    match = rf"{type(ALL[name]).__name__} needs {key} .*, got {value!r}"
    with pytest.raises(ValueError, match=match):
        replace(ALL[name], **{key: value})
