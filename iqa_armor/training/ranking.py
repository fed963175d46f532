"""How well a network under training keeps its ranking when it is attacked."""

import torch
from torch import Tensor, nn

from iqa_armor.attacks.base import ScoreFn, frozen
from iqa_armor.attacks.pgd import PGD
from iqa_armor.data.prepared import batches
from iqa_armor.metrics.correlation import srocc
from iqa_armor.training.images import TrainingImages

EPSILON, STEPS, MOST = 1 / 255, 4, 64  # budget, steps of 2 ε / STEPS, and the most images that are attacked


def worst_case_srocc(model: nn.Module, images: TrainingImages, *, sign: float, batch_size: int) -> float:
    """Return SROCC in [-1, 1] on held-out images that are attacked to turn the ranking round.

    Images rated below the median of the training labels are attacked upwards, the others downwards, by PGD-4 at 1/255:
    enough to tell epochs apart, weaker than what reports attack with. `sign` is −1 where small scores are good.
    """
    held, device = images.held_out, next(model.parameters()).device
    count, median = min(len(held), MOST), images.mos.median()
    scores: list[Tensor] = []
    attack = PGD(EPSILON, 2 * EPSILON / STEPS, STEPS)
    with frozen(model):
        for batch, mos, _ in batches(held, batch_size):
            ways = (sign * torch.where(mos < median, 1.0, -1.0)).to(device)
            moved = attack(_turned(model, ways), batch.to(device), torch.Generator())
            with torch.inference_mode():
                scores.append(sign * model(moved).float().cpu())
            if sum(map(len, scores)) >= count:
                break
    found = torch.cat(scores)[:count]
    return float(srocc(found, held.mos[:count]))


def _turned(model: nn.Module, ways: Tensor) -> ScoreFn:
    return lambda images: ways * model(images).float()
