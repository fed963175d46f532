"""Square attack: random search with queries of the score alone."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Direction, LinfAttack, ScoreFn
from iqa_armor.attacks.scores import Best, linf_box, per_image
from iqa_armor.limits import NotNegative
from iqa_armor.randomness import drawn_from

_HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: where the share of changed pixels halves


@dataclass(frozen=True)
class Square(LinfAttack):
    """Move the predicted score inside an L-infinity ball by trying squares at random; needs no gradient.

    Every query scores the whole batch once: each image proposes a square of its own and keeps it if its score
    moved the right way.

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
            side = self.side(step, height, width)
            inside = _squares(drawn[0], drawn[1], side=side, height=height, width=width)
            signs = drawn[2:].T.reshape(count, channels, 1, 1) < 0.5
            proposed = torch.where(inside, torch.where(signs, low, high), found.images)
            found.update(proposed, self.direction * score(proposed))
        best.update(found.images, found.gains)
        return best.images

    def side(self, step: int, height: int, width: int) -> int:
        """Return the side of the squares, in pixels, at proposal `step`, counted from 1."""
        planned = step / self.queries * 10_000
        share = self.initial_share / 2 ** sum(planned > halving for halving in _HALVINGS)
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _squares(rows: Tensor, columns: Tensor, *, side: int, height: int, width: int) -> Tensor:
    """Return where each image's square lies, (N, 1, H, W) bool; its place is drawn in [0, 1), (N,) each."""
    top, left = _place(rows, height - side), _place(columns, width - side)
    y = torch.arange(height, device=rows.device).view(1, 1, -1, 1)
    x = torch.arange(width, device=rows.device).view(1, 1, 1, -1)
    return (y >= top) & (y < top + side) & (x >= left) & (x < left + side)


def _place(drawn: Tensor, last: int) -> Tensor:
    # A draw just below 1 can round up to `last + 1`.
    return per_image((drawn * (last + 1)).floor().clamp_max(last))
