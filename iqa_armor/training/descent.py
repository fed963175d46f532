"""What every training shares: step sizes, epochs of steps, the best epoch's weights, and when a fit runs away."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Generator, Tensor, autograd, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from iqa_armor.errors import ArmorError
from iqa_armor.recipe import Training
from iqa_armor.training.losses import Loss

FAR = 4.0  # times the loss of the mean prediction, or of the first step where that is more
EVERY = 10  # steps


class Diverged(ArmorError):
    """The loss is not finite, or far above that of predicting the mean."""


class LossWatch:
    """Looks at the mean loss of the last ten steps, every ten steps and at the end; targets (N,) are standardised."""

    def __init__(self, loss: Loss, targets: Tensor) -> None:
        first = loss(torch.zeros_like(targets).requires_grad_(), targets)
        if not first.requires_grad:
            raise ValueError("it has no gradient")
        self._limit, self._steps = FAR * float(first.detach()), 0
        self._last: deque[Tensor] = deque(maxlen=EVERY)

    def see(self, loss: Tensor) -> None:
        """Take in the loss of a step, (); Diverged where the mean of ten is not finite or above the limit."""
        if not self._steps:  # a new head may begin far off
            self._limit = max(self._limit, FAR * float(loss.detach().nan_to_num(posinf=0)))
        self._last.append(loss.detach())
        self._steps += 1
        if self._steps % EVERY == 0:
            self.check()

    def check(self) -> None:
        """Raise Diverged where the mean of the last steps is not finite or above the limit."""
        mean = float(torch.stack(list(self._last)).mean()) if self._last else 0.0
        if not mean <= self._limit:
            raise Diverged(f"the loss ran away: {mean:.3g} at last, where at most {self._limit:.3g} is sane")

    def state_dict(self) -> dict[str, Any]:
        return {"limit": self._limit, "steps": self._steps, "last": [float(loss) for loss in self._last]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._limit, self._steps = float(state["limit"]), int(state["steps"])
        self._last.extend(map(torch.tensor, state["last"]))


T = TypeVar("T")
E = TypeVar("E")


def warm_cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a schedule of step sizes: linear over the first tenth of the steps, then half a cosine to zero."""
    warm = max(1, steps // 10)

    def factor(step: int) -> float:
        falling = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
        return (step + 1) / warm if step < warm else falling

    return LambdaLR(optimizer, factor)


def decayed_optimizer(model: nn.Module, settings: Training) -> Optimizer:
    """Return AdamW under which weights decay, biases and the gains of norms do not."""
    decaying = {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": settings.weight_decay}
    others = {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}
    return AdamW([decaying, others], lr=settings.learning_rate)


def descend(
    loss: Tensor, optimizer: Optimizer, schedule: LRScheduler, *, backward: Callable[[Tensor], None] = autograd.backward
) -> Tensor:
    """Make one step down the gradient of a loss, which `backward` takes, and return the loss without its graph."""
    optimizer.zero_grad(set_to_none=True)
    backward(loss)
    optimizer.step()
    schedule.step()
    return loss.detach()


def run_epoch(
    batches: Iterable[T], step: Callable[[T], Tensor], *, number: int, report: Callable[[int], None] | None = None
) -> float:
    """Return the mean loss of epoch `number`, from 1, a step for each batch; Diverged where it is not finite."""
    losses: list[Tensor] = []
    for batch in batches:
        losses.append(step(batch))
        if report is not None:
            report(len(losses))
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise Diverged(f"the loss of epoch {number} is {loss}")
    return loss


def epoch_seed(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number) % 2**63


def mirrored(*parts: Tensor, generator: Generator) -> tuple[Tensor, ...]:
    """Flip images (N, 3, H, W) left to right at random, each together with its partners in the other parts."""
    chosen = (torch.rand(len(parts[0]), generator=generator) < 0.5).to(parts[0].device).view(-1, 1, 1, 1)
    return tuple(torch.where(chosen, part.flip(-1), part) for part in parts)


class Epochs(Generic[E]):
    """What the epochs of a training gave, and the weights of the best; epoch 0 is the network before training."""

    def __init__(self, figure: Callable[[E], float]) -> None:
        self.done, self.weights = list[E](), dict[str, Tensor]()
        self._figure = figure

    @property
    def best(self) -> int:
        """Number of the epoch with most of the figure, the first of equals; NaN counts least."""
        figures = [self._figure(epoch) for epoch in self.done]
        return max(range(len(figures)), key=lambda n: -math.inf if math.isnan(figures[n]) else figures[n])

    def add(self, epoch: E, module: nn.Module) -> None:
        """Note an epoch, and keep the module's weights, on the CPU, where it is the best."""
        self.done.append(epoch)
        if self.best == len(self.done) - 1:
            self.weights = copied(module, on="cpu")


class AveragedWeights:
    """Moving average d · average + (1 − d) · weights after step t, d = min(decay, (1 + t) / (10 + t)), of floats."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps, self.values = module, decay, 0, copied(module)

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, share)
            else:
                self.values[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        own = copied(self.module)
        self.module.load_state_dict(self.values)
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        for name, value in self.values.items():
            value.copy_(state["values"][name])


def copied(module: nn.Module, *, on: str | None = None) -> dict[str, Tensor]:
    return {name: value.detach().to(device=on, copy=True) for name, value in module.state_dict().items()}
