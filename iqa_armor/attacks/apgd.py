"""Attacks without parameters to tune: Square, Auto-PGD, and the best of them and of transfers on every image."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, Direction, LinfAttack, ScoreFn
from iqa_armor.attacks.scores import Best, evaluate_score, linf_box, per_image, score_and_gradient
from iqa_armor.limits import Count, NotNegative
from iqa_armor.randomness import drawn_from

_HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: where the share of changed pixels halves


@dataclass(frozen=True)
class Square(LinfAttack):
    """Move the predicted score inside an L-infinity ball by trying squares at random; needs no gradient.

    Every query scores the batch once: each image keeps the square it proposed if its score moved the right way.

    Source: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search",
    ECCV 2020, arXiv:1912.00049, Algorithms 1 and 2, vertical stripes to begin with, p = 0.05 and its halvings
    rescaled to `queries`. On H×W images the side is √(p·H·W), at most the shorter side; the first query asks for
    the clean score, and an image that no query improved comes back clean (ours).
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    queries: Annotated[int, "[2, inf)"] = 1000  # number of scores asked for per image
    initial_share: Annotated[float, "(0, 1]"] = 0.05  # share p of the pixels that the first squares cover, in (0, 1]
    direction: Direction = +1

    @torch.no_grad()
    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:
        images, generator = images.detach(), drawn_from(generator, images)
        count, channels, height, width = images.shape
        low, high = linf_box(images, self.epsilon)
        best = Best(images, self.direction * score(images))
        stripes = torch.rand(count, channels, 1, width, generator=generator, device=generator.device)
        striped = torch.where(stripes.to(images.device) < 0.5, low, high)
        found = Best(striped, self.direction * score(striped))
        # Row, column and a sign per channel; all at once, since a transfer per query costs more than a small model.
        draws = torch.rand(self.queries - 2, 2 + channels, count, generator=generator, device=generator.device)
        for step, drawn in enumerate(draws.to(images.device), start=1):
            inside = _squares(drawn[:2], self.side(step, height, width), (height, width))
            signs = drawn[2:].T.reshape(count, channels, 1, 1) < 0.5
            proposed = torch.where(inside, torch.where(signs, low, high), found.images)
            found.update(proposed, self.direction * score(proposed))
        best.update(found.images, found.gains)
        return best.images

    def side(self, step: int, height: int, width: int) -> int:
        """Return the side of the squares, in pixels, at proposal `step`, counted from 1."""
        share = self.initial_share / 2 ** sum(step / self.queries * 10_000 > halving for halving in _HALVINGS)
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _squares(drawn: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Return where each image's square lies, (N, 1, H, W) bool; its row and column are drawn in [0, 1), (2, N)."""
    inside: list[Tensor] = []
    for draws, length in zip(drawn, size, strict=True):
        # A draw just below 1 can round up to the number of places.
        first = (draws * (length - side + 1)).floor().clamp_max(length - side)[:, None]
        places = torch.arange(length, device=drawn.device)
        inside.append((places >= first) & (places < first + side))
    return inside[0][:, None, :, None] & inside[1][:, None, None, :]


_MOMENTUM = 0.75  # α: weight of the new step, 1 − α that of the last movement
_ENOUGH_RISES = 0.75  # ρ: a step size stays while this share of its steps raised the gain


@dataclass(frozen=True)
class APGD(LinfAttack):
    """Move the predicted score inside an L-infinity ball with steps that halve where they stop helping.

    Source: Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, arXiv:2003.01690, Algorithm 1 with its constants, the objective being the score. The
    zero first start, and checks as soon as w_j steps are made, not after one more, are (ours).
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    steps: Count = 50  # number of gradient steps of each start
    restarts: Count = 1  # number of starts: the clean image, then points drawn uniformly from the ball
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:
        images, generator = images.detach(), drawn_from(generator, images)
        box = linf_box(images, self.epsilon)
        best = _Start(self, score, images, box=box).run()
        for _ in range(1, self.restarts):
            drawn = torch.rand(images.shape, generator=generator, device=generator.device).to(images)
            start = torch.clamp(images + self.epsilon * (2 * drawn - 1), *box)
            again = _Start(self, score, start, box=box).run()
            best.update(again.images, again.gains)
        return best.images


def checkpoints(steps: int) -> tuple[int, ...]:
    """Return the numbers of steps w_j = ⌈p_j · steps⌉ after which Auto-PGD reconsiders its step size.

    p_0 = 0, p_1 = 0.22 and p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), as long as p_j is at most 1; counted in
    hundredths, so that no rounding shifts a checkpoint.
    """
    percents, width = [22], 22
    while percents[-1] <= 100:
        width = max(width - 3, 6)
        percents.append(percents[-1] + width)
    return tuple(sorted({math.ceil(percent * steps / 100) for percent in percents[:-1]}))


class _Start:
    """One start of Auto-PGD on a batch; every image has its own step size, counts and best point."""

    def __init__(self, attack: APGD, score: ScoreFn, start: Tensor, *, box: tuple[Tensor, Tensor]) -> None:
        self.attack, self.score, self.box = attack, score, box
        scores, self.gradient = score_and_gradient(score, start)
        self.gains = attack.direction * scores
        self.previous = self.current = start
        self.best, self.best_gradient = Best(start, self.gains), self.gradient
        self.step_size = start.new_full((len(start),), 2 * attack.epsilon)
        self.rises = torch.zeros_like(self.gains)
        self.has_halved = torch.zeros_like(self.gains, dtype=torch.bool)
        self.best_at_check = self.gains

    def run(self) -> Best:
        reviews = (0, *checkpoints(self.attack.steps))
        for step in range(1, self.attack.steps + 1):
            self._move(is_first=step == 1)
            self._judge(is_last=step == self.attack.steps)
            if step in reviews:
                self._review(step - reviews[reviews.index(step) - 1])
        return self.best

    def _move(self, *, is_first: bool) -> None:
        signed = self.attack.direction * per_image(self.step_size) * self.gradient.sign()
        moved = torch.clamp(self.current + signed, *self.box)
        if not is_first:
            # x + α (z − x) + (1 − α)(x − x_previous)
            along = _MOMENTUM * (moved - self.current) + (1 - _MOMENTUM) * (self.current - self.previous)
            moved = torch.clamp(self.current + along, *self.box)
        self.previous, self.current = self.current, moved

    def _judge(self, *, is_last: bool) -> None:
        if is_last:
            scores = evaluate_score(self.score, self.current)
        else:
            scores, self.gradient = score_and_gradient(self.score, self.current)
        before, self.gains = self.gains, self.attack.direction * scores
        self.rises += self.gains > before
        better = self.best.update(self.current, self.gains)
        self.best_gradient = torch.where(per_image(better), self.gradient, self.best_gradient)

    def _review(self, made: int) -> None:
        """Halve the step size and return to the best point where the last `made` steps were of little use."""
        got_stuck = ~self.has_halved & (self.best.gains == self.best_at_check)
        halve = (self.rises < _ENOUGH_RISES * made) | got_stuck
        self.step_size = torch.where(halve, self.step_size / 2, self.step_size)
        self.current = torch.where(per_image(halve), self.best.images, self.current)
        self.gradient = torch.where(per_image(halve), self.best_gradient, self.gradient)
        self.gains = torch.where(halve, self.best.gains, self.gains)
        self.has_halved, self.best_at_check = halve, self.best.gains
        self.rises = torch.zeros_like(self.rises)


@dataclass(frozen=True)
class Auto(LinfAttack):
    """Run Auto-PGD with restarts, then Square and transfers, and keep of each image what moved its score farthest.

    Source: after AutoAttack, Croce & Hein, ICML 2020, arXiv:2003.01690, Section 5. Ours: a score has one objective, so
    there is one Auto-PGD, and no FAB; all images go through all attacks; transfers.
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    steps: Count = 50  # gradient steps of each start of Auto-PGD
    restarts: Count = 2  # starts of Auto-PGD
    queries: Count = 300  # scores that Square may ask for
    direction: Direction = +1  # +1 raises the score, -1 lowers it
    sources: tuple[ScoreFn, ...] = field(default=(), repr=False)  # scores of others, Auto-PGD on which is tried

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:
        generator = drawn_from(generator, images)
        best = Best(images.detach(), self.direction * evaluate_score(score, images))
        apgd = APGD(self.epsilon, self.steps, self.restarts, self.direction)
        square = Square(self.epsilon, queries=self.queries, direction=self.direction)
        ways: list[tuple[Attack, ScoreFn]] = [(apgd, score), (square, score), *((apgd, each) for each in self.sources)]
        for attack, followed in ways:
            attacked = attack(followed, images, generator)
            best.update(attacked, self.direction * evaluate_score(score, attacked))
        return best.images
