"""A fit that runs away is noticed within its first steps, not at its end."""

import torch
from torch import Tensor

from iqa_armor.errors import ArmorError
from iqa_armor.training.losses import Loss

FAR = 4.0  # times the loss of the mean prediction, or of the first step where that is more
EVERY = 10  # steps


class Diverged(ArmorError):
    """The loss is not finite, or far above that of predicting the mean."""


class LossWatch:
    """Looks at the loss every ten steps; targets (N,) have zero mean and unit spread."""

    def __init__(self, loss: Loss, targets: Tensor) -> None:
        self.limit = FAR * float(loss(torch.zeros_like(targets), targets))
        self._seen: list[Tensor] | None = None

    def see(self, loss: Tensor) -> None:
        """Take in the loss of a step, (); Diverged where the mean of ten is not finite or above the limit."""
        if self._seen is None:  # a new head may begin far off
            self._seen, self.limit = [], max(self.limit, FAR * float(loss.detach().nan_to_num(posinf=0)))
        self._seen.append(loss.detach())
        if len(self._seen) == EVERY:
            mean = float(torch.stack(self._seen).mean())
            self._seen.clear()
            if not mean <= self.limit:
                raise Diverged(f"the loss ran away: {mean:.3g} over ten steps, where at most {self.limit:.3g} is sane")
