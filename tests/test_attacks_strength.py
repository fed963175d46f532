import math
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor
from white_subjects import BOTH, NAMES, Counted, draw_images, gains, lengths, tiny

from iqa_armor.attacks.apgd import APGD, Auto, Square, checkpoints
from iqa_armor.attacks.base import Direction, ScoreFn
from iqa_armor.attacks.pgd import AMIFGSM, L2PGD, MIFGSM, PGD, contrast_map
from iqa_armor.attacks.scores import project_l2

both_directions = pytest.mark.parametrize("direction", BOTH)
every_model = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def images() -> Tensor:
    return draw_images()


def mountain(images: Tensor, *, inside: float) -> tuple[Tensor, Counted]:
    """Return a point at `inside` from the images in every value and a score whose top is there."""
    signs = torch.randint(0, 2, images.shape, generator=Generator().manual_seed(4)).mul(2).sub(1)
    top = images + inside * signs
    return top, Counted(lambda batch: -(batch - top).square().mean((1, 2, 3)))


def test_momentum_by_hand() -> None:
    """Three pixels; slope (4, 3, 0), then (−6, 2.5, 2.5) once the first has moved: momentum keeps it going up."""
    images = torch.full((1, 3, 1, 3), 0.5)
    before, after = torch.tensor([4.0, 3.0, 0.0]), torch.tensor([-6.0, 2.5, 2.5])

    def score(batch: Tensor) -> Tensor:
        slopes = torch.where(batch.detach()[..., :1] > 0.55, after, before)
        return (slopes * batch).sum((1, 2, 3)) + 100 * batch.detach().sum((1, 2, 3))  # the last iterate is best

    def move(momentum: float) -> Tensor:
        attack = MIFGSM(epsilon=0.4, step_size=0.1, steps=2, momentum=momentum)
        return attack(score, images, Generator())[0, 0, 0] - 0.5

    # (4, 3, 0)/7 + (−6, 2.5, 2.5)/11 = (.03, .66, .23), the three channels being alike; L2 norms would give (−.06, …).
    torch.testing.assert_close(move(1.0), torch.tensor([0.2, 0.2, 0.1]))
    torch.testing.assert_close(move(0.0), torch.tensor([0.0, 0.2, 0.1]))


def test_momentum_of_zero_is_pgd(images: Tensor) -> None:
    model = tiny("smooth")
    by_pgd = PGD(steps=4)(model, images, Generator())
    torch.testing.assert_close(MIFGSM(steps=4, momentum=0.0)(model, images, Generator()), by_pgd, rtol=0, atol=1e-6)


def test_momentum_needs_one_gradient_per_step(images: Tensor) -> None:
    seen = Counted(tiny("relu"))
    MIFGSM(steps=5)(seen, images, Generator())
    assert (seen.gradients, len(seen.asked)) == (5, 6)


def test_contrast_by_hand() -> None:
    stripes = torch.tensor([0.4, 0.6]).repeat(16).expand(1, 3, 32, 32)
    assert contrast_map(torch.full((1, 3, 9, 11), 0.7)).mean().item() == pytest.approx(0, abs=1e-6)
    # Seven columns hold four of one kind and three of the other: σ = 0.2 √(12/49); nearly so at the borders.
    assert contrast_map(stripes).mean().item() == pytest.approx(0.2 * math.sqrt(12) / 7, rel=0.01)


def test_adaptive_budget_grows_with_contrast_up_to_epsilon() -> None:
    noise = torch.rand(1, 3, 24, 24, generator=Generator().manual_seed(0)) - 0.5
    images = torch.cat([0.5 + contrast * noise for contrast in (0.0, 0.3, 1.0)])
    attack = AMIFGSM(epsilon=8 / 255, steps=20)
    radii = attack.budgets(images)
    share = float(contrast_map(images)[1].mean()) / 0.08
    torch.testing.assert_close(radii, 8 / 255 * torch.tensor([0.25, share, 1.0]))
    assert 0.25 < share < 1
    assert attack.budgets(images.bfloat16()).dtype == torch.bfloat16
    reached = lengths(attack, images, attack(tiny("smooth"), images, Generator()))
    torch.testing.assert_close(reached.float(), radii, rtol=0, atol=1e-6)


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(50) == (11, 21, 29, 35, 40, 44, 47, 50)
    assert checkpoints(1) == (1,)


@both_directions
@every_model
def test_stronger_attacks_gain_more(name: str, direction: Direction, images: Tensor) -> None:
    model = tiny(name)
    one, eight, auto = (
        float(gains(replace(attack, direction=direction), model, images).mean())
        for attack in (PGD(steps=1), PGD(steps=8), APGD())
    )
    assert one < eight <= auto


def follow_paper(score: ScoreFn, images: Tensor, epsilon: float, steps: int) -> tuple[Tensor, int]:
    """Return the best point of one image by Algorithm 1 of Auto-PGD, written down plainly, and how often it halved."""

    def f(x: Tensor) -> float:
        return float(score(x).detach())

    def ascend(x: Tensor, eta: float) -> Tensor:
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(x).sum(), x)
        return project(x.detach() + eta * gradient.sign())

    def project(x: Tensor) -> Tensor:
        return x.clamp(images - epsilon, images + epsilon).clamp(0, 1)

    eta, x_old, x = 2 * epsilon, images, ascend(images, 2 * epsilon)
    values, best = [f(images), f(x)], max((images, x), key=f)
    last, best_then, halved_then, halvings = 0, values[0], False, 0
    for k in range(1, steps):
        if k in checkpoints(steps):
            rises = sum(values[i + 1] > values[i] for i in range(last, k))
            halved = rises < 0.75 * (k - last) or (not halved_then and f(best) == best_then)
            if halved:
                eta, x, halvings = eta / 2, best, halvings + 1
                values[-1] = f(best)
            last, best_then, halved_then = k, f(best), halved
        x_old, x = x, project(x + 0.75 * (ascend(x, eta) - x) + 0.25 * (x - x_old))
        values.append(f(x))
        best = max((best, x), key=f)
    return best, halvings


@pytest.mark.parametrize("name", ["smooth", "normed"])
def test_auto_pgd_follows_its_algorithm(name: str, images: Tensor) -> None:
    model, images = tiny(name).double(), images.double()
    images = torch.cat([images, draw_images(seed=3).double()])
    attacked = APGD(epsilon=0.2, steps=40)(model, images, Generator())
    for image, got in zip(images.split(1), attacked.split(1), strict=True):
        expected, halvings = follow_paper(model, image, 0.2, 40)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
        assert halvings >= 2


def test_steps_halve_where_they_overshoot(images: Tensor) -> None:
    """Fixed steps of 2ε jump from side to side of a top inside the ball; halved ones come close to it."""
    epsilon = 8 / 255
    images = images.clamp(0.1, 0.9)
    top, score = mountain(images, inside=0.3 * epsilon)
    attacked = APGD(epsilon=epsilon, steps=100)(score, images, Generator())
    movements = [float((b - a).abs().max()) for a, b in zip(score.asked, score.asked[1:], strict=False)]
    assert max(movements[:5]) >= 0.9 * epsilon
    assert max(movements[-5:]) <= 0.2 * epsilon
    assert (attacked - top).abs().max() < 0.1 * epsilon
    by_pgd = PGD(epsilon=epsilon, step_size=2 * epsilon, steps=100)(score, images, Generator())
    assert (by_pgd - top).abs().min() > 0.5 * epsilon


def test_each_image_has_its_own_step_size(images: Tensor) -> None:
    epsilon = 8 / 255
    images = images.clamp(0.1, 0.9)
    top, _ = mountain(images, inside=0.3 * epsilon)

    def score(batch: Tensor) -> Tensor:
        steep = -(batch - top).square().mean((1, 2, 3))
        return torch.cat([steep[:1], batch[1:].mean((1, 2, 3))])

    attacked = APGD(epsilon=epsilon, steps=60)(score, images, Generator())
    assert (attacked[0] - top[0]).abs().max() < 0.2 * epsilon
    torch.testing.assert_close(attacked[1:], images[1:] + epsilon)


def test_auto_pgd_needs_one_gradient_per_step_and_start(images: Tensor) -> None:
    seen = Counted(tiny("relu"))
    APGD(steps=6, restarts=3)(seen, images, Generator().manual_seed(0))
    assert (seen.gradients, len(seen.asked)) == (3 * 6, 3 * 7)
    starts = seen.asked[0], seen.asked[7], seen.asked[14]
    assert torch.equal(starts[0], images)
    assert all(0.5 * 4 / 255 < (start - images).abs().max() <= 4 / 255 + 1e-7 for start in starts[1:])


@every_model
def test_restarts_never_hurt(name: str, images: Tensor) -> None:
    once, thrice = (gains(APGD(steps=10, restarts=n), tiny(name), images) for n in (1, 3))
    assert (thrice >= once).all()


def test_l2_attack_reaches_the_best_point_of_a_linear_score() -> None:
    slope = torch.randn(1, 3, 8, 8, generator=Generator().manual_seed(0))
    images = torch.full((2, 3, 8, 8), 0.5)
    attacked = L2PGD(epsilon=0.3)(lambda batch: (slope * batch).sum((1, 2, 3)), images, Generator())
    torch.testing.assert_close(attacked, images + 0.3 * slope / slope.norm())


def test_l2_projection_by_hand() -> None:
    center = torch.full((2, 3, 2, 2), 0.5)
    moved = center.clone()
    moved[0, 0, 0] += torch.tensor([0.3, 0.4])
    moved[1, 0, 0, 0] += 0.1
    projected = project_l2(moved, center, 0.25)
    torch.testing.assert_close(projected[0, 0, 0] - 0.5, torch.tensor([0.15, 0.2]))
    assert torch.equal(projected[1], moved[1])


def test_l2_budget_holds_at_the_ends_of_the_pixel_range() -> None:
    images = draw_images(64, 48).round()
    attack = L2PGD(epsilon=3.0)
    attacked = attack(tiny("smooth"), images, Generator())
    reached = lengths(attack, images, attacked)
    assert (reached <= 3 + 1e-5).all()
    assert (reached > 0.5).all()
    assert ((attacked >= 0) & (attacked <= 1)).all()


@pytest.mark.parametrize("direction", [1, -1])
def test_auto_is_nowhere_weaker_than_its_parts(direction: int) -> None:
    images, weights = 0.2 + 0.6 * torch.rand(4, 3, 12, 12), torch.randn(3, 12, 12)

    def score(batch: Tensor) -> Tensor:  # Square finds what gradients cannot: a score in steps
        smooth = (batch * weights).sum((1, 2, 3))
        return torch.where(torch.tensor([True, True, False, False]), smooth, (smooth * 4).round() / 4 + 0 * smooth)

    parts = [
        APGD(8 / 255, steps=10, restarts=1, direction=direction),
        Square(8 / 255, queries=50, direction=direction),
    ]
    auto = Auto(8 / 255, steps=10, restarts=1, queries=50, direction=direction)
    reached = [direction * score(each(score, images, torch.Generator().manual_seed(0))) for each in (*parts, auto)]
    # Square goes on with the generator where Auto-PGD left it: with one start, that has drawn nothing.
    torch.testing.assert_close(reached[2], torch.maximum(reached[0], reached[1]))
