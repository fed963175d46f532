from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from white_subjects import BOTH, NAMES, Counted, draw_images, gains, lengths, same_size_noise, tiny

from iqa_armor.attacks.apgd import APGD, Square
from iqa_armor.attacks.base import Attack, Direction
from iqa_armor.attacks.pgd import AMIFGSM, L2PGD, MIFGSM

# Small counts, to be quick.
ALL: dict[str, Any] = {
    "mifgsm": MIFGSM(),
    "amifgsm": AMIFGSM(),
    "apgd": APGD(steps=20),
    "apgd_restarts": APGD(steps=8, restarts=2),
    "l2": L2PGD(epsilon=0.4),
    "square": Square(queries=200),
}
GRADIENT = {name: attack for name, attack in ALL.items() if name not in ("square", "apgd_restarts")}

every_attack = pytest.mark.parametrize("attack", ALL.values(), ids=ALL)
every_gradient_attack = pytest.mark.parametrize("attack", GRADIENT.values(), ids=GRADIENT)
both_directions = pytest.mark.parametrize("direction", BOTH)
every_model = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def images() -> Tensor:
    return draw_images()


@both_directions
@every_attack
@every_model
def test_attack_stays_in_budget_and_beats_noise_on_every_image(
    name: str, attack: Any, direction: Direction, images: Tensor
) -> None:
    model, before = tiny(name), images.clone()
    attack = replace(attack, direction=direction)
    attacked = attack(model, images, Generator().manual_seed(1))
    assert isinstance(attack, Attack)
    assert (lengths(attack, images, attacked) <= attack.epsilon + 1e-6).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    moved = gains(attack, model, images, attacked=attacked)
    by_noise = gains(attack, model, images, attacked=same_size_noise(attack, images, attacked))
    assert (moved > 0).all()
    assert (moved > by_noise).all()
    assert not attacked.requires_grad
    assert attacked.dtype == images.dtype
    assert torch.equal(images, before)


@every_gradient_attack
@every_model
def test_batch_equals_one_by_one(name: str, attack: Any, images: Tensor) -> None:
    model, images = tiny(name).double(), images.double()
    together = attack(model, images, Generator())
    alone = torch.cat([attack(model, image, Generator()) for image in images.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


@every_attack
def test_neighbors_in_the_batch_do_not_matter(attack: Any, images: Tensor) -> None:
    model = tiny("normed")
    others = torch.cat([draw_images(seed=9)[:1], images[1:]])
    first, second = (attack(model, batch, Generator().manual_seed(2)) for batch in (images, others))
    assert torch.equal(first[1:], second[1:])
    assert not torch.equal(first[0], second[0])


@every_attack
def test_no_image_comes_back_worse_than_clean(attack: Any, images: Tensor) -> None:
    def peak(batch: Tensor) -> Tensor:
        """Highest at the clean images, with slopes that lead everywhere but there."""
        return 0.001 * batch.mean((1, 2, 3)) - (batch - images).abs().mean((1, 2, 3))

    attacked = attack(peak, images, Generator().manual_seed(1))
    assert (gains(attack, peak, images, attacked=attacked) >= 0).all()


@every_attack
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_type_of_numbers_is_kept(attack: Any, dtype: torch.dtype, images: Tensor) -> None:
    model, batch = tiny("smooth").to(dtype), images.to(dtype)
    seen = Counted(model)
    attacked = attack(seen, batch, Generator().manual_seed(1))
    assert attacked.dtype == dtype
    assert {asked.dtype for asked in seen.asked} == {dtype}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MIFGSM(step_size=0.0), r"MIFGSM needs step_size in \(0, inf\)"),
        (lambda: MIFGSM(momentum=-0.1), r"MIFGSM needs momentum in \[0, inf\)"),
        (lambda: MIFGSM(steps=0), r"MIFGSM needs steps in \[1, inf\)"),
        (lambda: AMIFGSM(steps=0), r"AMIFGSM needs steps in \[1, inf\)"),
        (lambda: AMIFGSM(full_contrast=0.0), r"AMIFGSM needs full_contrast in \(0, inf\), got 0.0"),
        (lambda: APGD(steps=0), r"APGD needs steps in \[1, inf\)"),
        (lambda: APGD(restarts=0), r"APGD needs restarts in \[1, inf\)"),
        (lambda: L2PGD(step_share=0.0), r"L2PGD needs step_share in \(0, inf\)"),
        (lambda: L2PGD(steps=0), r"L2PGD needs steps in \[1, inf\)"),
        (lambda: Square(queries=1), r"Square needs queries in \[2, inf\)"),
        (lambda: Square(initial_share=0.0), r"Square needs initial_share in \(0, 1\]"),
        (lambda: Square(initial_share=1.5), r"Square needs initial_share in \(0, 1\]"),
    ],
)
def test_bad_hyperparameters_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
