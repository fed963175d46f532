"""What the epochs of a fit gave, and how well a network keeps its ranking under attack."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.pgd import PGD
from iqa_armor.data.prepared import batches
from iqa_armor.metrics.correlation import srocc
from iqa_armor.recipe import Select
from iqa_armor.training.images import TrainingImages


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave; epoch 0 is the network before fitting."""

    number: int
    loss: float  # mean over training batches, NaN for epoch 0
    srocc: float  # on the held-out tenth of the training images, as `plcc` and `worst_srocc` are
    plcc: float
    seconds: float  # wall time with the check
    worst_srocc: float | None = None  # under an attack on the ranking, where the epoch is chosen by it

    def __str__(self) -> str:
        worst = "" if self.worst_srocc is None else f", under attack {self.worst_srocc:.3f}"
        return f"epoch {self.number}: loss {self.loss:.4f}, held-out SROCC {self.srocc:.3f}{worst}"

    def merit(self, select: Select) -> float:
        """Return what the best epoch has most of; NaN where scores say nothing."""
        if self.worst_srocc is None or select == "clean":
            return self.srocc
        return self.worst_srocc if select == "robust" else (self.srocc + self.worst_srocc) / 2


@dataclass(frozen=True)
class FitHistory:
    """Every epoch, the untouched network first, and the number of the one whose weights the model holds now."""

    epochs: tuple[Epoch, ...] = ()
    best: int = 0
    learning_rate: float | None = None  # smaller than asked for where larger ones diverged

    def facts(self) -> dict[str, Any]:
        epochs = [asdict(epoch) for epoch in self.epochs]
        return {"epochs": epochs, "best_epoch": self.best, "learning_rate": self.learning_rate}


@dataclass(frozen=True)
class ScoreMoments:
    """Mean and standard deviation of scores; a negative spread turns their direction round."""

    center: float = 0.0
    spread: float = 1.0


EPSILON, STEPS, MOST = 1 / 255, 4, 64  # budget, steps of 2 ε / STEPS, and the most images that are attacked


def worst_case_srocc(model: nn.Module, images: TrainingImages, *, sign: float, batch_size: int) -> float:
    """Return SROCC in [-1, 1] on held-out images that are attacked to turn the ranking round.

    Images rated below the median of the training labels are attacked upwards, the others downwards, by PGD-4 at 1/255:
    enough to tell epochs apart, weaker than what reports attack with. `sign` is −1 where small scores are good.
    """
    held, device, median = images.held_out, next(model.parameters()).device, images.mos.median()
    attack, count = PGD(EPSILON, 2 * EPSILON / STEPS, STEPS), min(len(held), MOST)
    scores: list[Tensor] = []
    with frozen(model):
        for batch, mos, _ in batches(held, batch_size):
            ways = (sign * torch.where(mos < median, 1.0, -1.0)).to(device)
            moved = attack(partial(_turned, model, ways), batch.to(device))
            with torch.inference_mode():
                scores.append(sign * model(moved).float().cpu())
            if sum(map(len, scores)) >= count:
                break
    return float(srocc(torch.cat(scores)[:count], held.mos[:count]))


def _turned(model: nn.Module, ways: Tensor, images: Tensor) -> Tensor:
    return torch.mul(ways, model(images).float())
