"""What the epochs of a fit gave."""

from dataclasses import asdict, dataclass
from typing import Any

from iqa_armor.recipe import Select


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
        """Return plain values to store with the model."""
        epochs = [asdict(epoch) for epoch in self.epochs]
        return {"epochs": epochs, "best_epoch": self.best, "learning_rate": self.learning_rate}


@dataclass(frozen=True)
class ScoreMoments:
    """Mean and standard deviation of scores; a negative spread turns their direction round."""

    center: float = 0.0
    spread: float = 1.0
