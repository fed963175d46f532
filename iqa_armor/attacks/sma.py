"""SMA: target scores that turn the ranking of a set of images round, and each image driven to its own."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from iqa_armor.attacks.base import Batches, Direction, FittedLinf, LinfAttack, ScoreFn
from iqa_armor.attacks.pgd import MIFGSM
from iqa_armor.attacks.scores import batches_of, evaluate_score, per_image
from iqa_armor.limits import Count, NotNegative, Positive

Numbers = NDArray[np.float64]
_MARGIN = 0.5  # share of the largest gap between neighbouring targets that all can keep, which they do
_HALVINGS = 12  # of the way from an image to as far as it gets


@dataclass(frozen=True, eq=False)
class Targeted(LinfAttack):
    """Move each image to the target of the known image whose clean score (K,) is nearest to its own; draws nothing."""

    known: Tensor
    targets: Tensor
    epsilon: NotNegative = 4 / 255
    step_size: Positive = 1 / 255
    steps: Count = 10
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        images, clean = images.detach(), evaluate_score(score, images)
        wanted = self.targets.to(clean)[(self.known.to(clean)[None] - clean[:, None]).abs().argmin(1)]
        way = (wanted - clean).sign()
        pgd = MIFGSM(self.epsilon, self.step_size, self.steps, momentum=0)  # keeps the best iterate
        change = pgd(lambda batch: way * score(batch), images) - images
        least, most = (torch.full_like(images[:, :1, :1, :1], share) for share in (0, 1))
        for _ in range(_HALVINGS):
            middle = (least + most) / 2
            is_past = per_image(way * (evaluate_score(score, images + middle * change) - wanted) >= 0)
            least, most = torch.where(is_past, least, middle), torch.where(is_past, middle, most)
        return (images + most * change).clamp(0, 1)


@dataclass(frozen=True)
class SMA(FittedLinf):
    """Turn the ranking of a whole set of images round as far as the scores that they can reach allow.

    Targets are learned from a set and known by clean score, so that images need not be attacked together.

    Source: Yang et al., "Beyond Score Changes: Adversarial Attack on No-Reference Image Quality Assessment from Two
    Perspectives" (SMA), arXiv:2404.13277: targets for a whole set that lower its SROCC with the clean scores, with a
    margin between them, then signed gradient steps to them. (ours), read from its abstract and reviews: what bounds a
    target is the lowest and highest score that the image was driven to; the order of the targets is found by moving one
    image at a time, not by gradients of smoothed ranks; the squared error, which it raises beside, only breaks ties, by
    `direction`; several steps instead of one, and a point between the image and where they end.
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    step_size: Positive = 1 / 255  # length of one signed step, in the same units
    steps: Count = 10  # number of gradient steps, each time that an image is driven as low or as high as it gets
    direction: Direction = +1  # of equally good targets the highest (+1) or lowest (−1); the ranking turns either way

    def fit(self, score: ScoreFn, batches: Batches, generator: Generator) -> Targeted:  # noqa: ARG002
        down, up = (MIFGSM(self.epsilon, self.step_size, self.steps, 0, direction) for direction in (-1, 1))
        reached = [
            torch.stack([evaluate_score(score, each) for each in (images, down(score, images), up(score, images))])
            for images in batches_of(batches)
        ]
        clean, low, high = torch.cat(reached, 1).double().cpu()
        targets = torch.from_numpy(ranking_targets(clean.numpy(), low.numpy(), high.numpy(), self.direction))
        return Targeted(clean, targets, self.epsilon, self.step_size, self.steps, self.direction)


def ranking_targets(scores: Numbers, low: Numbers, high: Numbers, direction: int = 1) -> Numbers:
    """Return targets (N,) in [low, high], as high (+1) or low as may be, whose SROCC with the scores is least."""
    if direction < 0:
        return -ranking_targets(-scores, -high, -low)
    rank = np.argsort(scores, kind="stable")
    order = rank[_turned_order(low[rank], high[rank])][::-1]
    least, most, places = 0.0, float(high.max() - low.min()), np.arange(len(order))
    for _ in range(50):
        gap = (least + most) / 2
        fits = (np.minimum.accumulate(high[order] + gap * places) - gap * places >= low[order]).all()
        least, most = (gap, most) if fits else (least, gap)
    gaps = _MARGIN * least * places
    return (np.minimum.accumulate(high[order] + gaps) - gaps)[np.argsort(order)]  # type: ignore[no-any-return]


def _turned_order(low: Numbers, high: Numbers) -> NDArray[np.intp]:
    """Return images, numbered by clean score, in the order of their targets, from the lowest.

    SROCC falls with Σ |i − j| over the pairs that are turned round. A pair whose intervals do not meet cannot be; any
    order that leaves such pairs alone is possible. From several of these, images move one by one to their best place.
    """
    starts = [_improved(np.argsort(key, kind="stable"), low, high) for key in (low, high, low + high)]
    return min(starts, key=lambda order: float(np.argsort(order) @ np.arange(len(order))))


def _improved(order: NDArray[np.intp], low: Numbers, high: Numbers) -> NDArray[np.intp]:
    before = None
    while before is not order:
        before = order
        for image in range(len(order)):
            rest = order[order != image]
            first = max(np.flatnonzero(high[rest] < low[image]) + 1, default=0)
            last = min(np.flatnonzero(low[rest] > high[image]), default=len(rest))
            below, above = np.clip(image - rest, 0, None), np.clip(rest - image, 0, None)
            # Weight of the pairs left in their order with the image in each place, first to last.
            cost = np.cumsum([0, *below]) + np.cumsum([0, *above[::-1]])[::-1]
            place = first + int(np.argmin(cost[first : last + 1]))
            if cost[place] < cost[np.flatnonzero(order == image)[0]]:
                order = np.insert(rest, place, image)
    return order
