"""The strongest of several attacks on each image."""

from dataclasses import dataclass, field

from torch import Generator, Tensor

from iqa_armor.attacks.apgd import APGD
from iqa_armor.attacks.base import Attack, Direction, LinfAttack, ScoreFn
from iqa_armor.attacks.climb import Best
from iqa_armor.attacks.scores import evaluate_score
from iqa_armor.attacks.square import Square
from iqa_armor.limits import Count, NotNegative
from iqa_armor.randomness import drawn_from


@dataclass(frozen=True)
class Auto(LinfAttack):
    """Run Auto-PGD with restarts, then Square and transfers, and keep of each image what moved its score farthest.

    Source: after AutoAttack, Croce & Hein, ICML 2020, arXiv:2003.01690, Section 5: a parameter-free ensemble, the worst
    case of each image counting. Ours: a score has one objective, so there is one Auto-PGD, and no FAB; all images go
    through all attacks; transfers.
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    steps: Count = 50  # gradient steps of each start of Auto-PGD
    restarts: Count = 2  # starts of Auto-PGD
    queries: Count = 300  # scores that Square may ask for
    direction: Direction = +1  # +1 raises the score, -1 lowers it
    # Scores of other models, Auto-PGD on which is tried too; an evaluation gives that of the baseline.
    sources: tuple[ScoreFn, ...] = field(default=(), repr=False)

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:
        generator = drawn_from(generator, images)
        best = Best(images.detach(), self.direction * evaluate_score(score, images))
        apgd = APGD(self.epsilon, self.steps, self.restarts, self.direction)
        square = Square(self.epsilon, queries=self.queries, direction=self.direction)
        attacks: list[tuple[Attack, ScoreFn]] = [(apgd, score), (square, score)]
        attacks += [(apgd, source) for source in self.sources]
        for attack, followed in attacks:
            attacked = attack(followed, images, generator)
            best.update(attacked, self.direction * evaluate_score(score, attacked))
        return best.images
